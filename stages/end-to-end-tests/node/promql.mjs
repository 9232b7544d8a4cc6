// Reads expressions of PromQL, a JSON list on standard input, with the grammar that Prometheus publishes for editors. Writes each expression
// that is none, with the place of its first mistake.

import { text } from "node:stream/consumers";
import { parser } from "@prometheus-io/lezer-promql";

for (const expression of JSON.parse(await text(process.stdin))) {
  const mistakes = [];
  parser.parse(expression).iterate({
    enter: (node) => {
      if (node.type.isError) mistakes.push(node.from);
    },
  });
  if (mistakes.length > 0) console.log(`${expression} (at ${mistakes[0]})`);
}
