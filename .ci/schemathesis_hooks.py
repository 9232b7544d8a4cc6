"""What schemathesis is told before it asks the gateway: lines of JSON are sent as text."""

import schemathesis

schemathesis.serializer.alias("application/jsonl", "text/plain")
