{{/* Names and labels. */}}

{{/*
What all names begin with: at most 36 characters, because the name of a StatefulSet and of its revision is a label of its pods (52 with the
stage's name); lower-case letters, digits and hyphens, a letter in front, because it names services. What does not fit is cut and gets a hash,
so that two names never become one.
*/}}
{{- define "millstream.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $wanted := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $wanted = default $wanted .Values.fullnameOverride -}}
{{- $fits := $wanted | lower | replace "." "-" | replace "_" "-" -}}
{{- if not (regexMatch "^[a-z]" $fits) -}}
{{- $fits = printf "m-%s" $fits -}}
{{- end -}}
{{- if or (ne $fits $wanted) (gt (len $fits) 36) -}}
{{- $fits = printf "%s-%s" ($fits | trunc 27 | trimSuffix "-") (sha256sum $wanted | trunc 8) -}}
{{- end -}}
{{- $fits -}}
{{- end -}}

{{/* Of all objects. Takes root and component. */}}
{{- define "millstream.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
app.kubernetes.io/part-of: millstream
{{ include "millstream.selector" . }}
{{- end -}}

{{/* What never changes for an object. */}}
{{- define "millstream.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component | quote }}
{{- end -}}

{{- define "millstream.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "millstream.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "millstream.image" -}}
{{- $image := .Values.image.repository -}}
{{- with default (dig "image" "registry" "" (default dict .Values.global)) .Values.image.registry -}}
{{- $image = printf "%s/%s" (trimSuffix "/" .) $image -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $image .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The program that is every command. */}}
{{- define "millstream.program" -}}
{{- printf "/usr/local/bin/%s" (default "millstream" .Values.image.program) -}}
{{- end -}}

{{/* What runs a stage, as a JSON list. Takes root and stage. */}}
{{- define "millstream.stageCommand" -}}
{{- if .root.Values.image.program -}}
{{- list (include "millstream.program" .root) "stage" .stage | toJson -}}
{{- else -}}
{{- list (printf "/usr/local/bin/%s" .stage) | toJson -}}
{{- end -}}
{{- end -}}

{{/* The service of the nats chart, which names it so. */}}
{{- define "millstream.natsName" -}}
{{- $name := default "nats" .Values.nats.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.nats.fullnameOverride -}}
{{- end -}}

{{- define "millstream.natsUrl" -}}
{{- if .Values.nats.enabled -}}
{{- printf "nats://%s:4222" (include "millstream.natsName" .) -}}
{{- else -}}
{{- .Values.connection.url -}}
{{- end -}}
{{- end -}}

{{/* The ports of NATS, as a JSON list. */}}
{{- define "millstream.natsPorts" -}}
{{- $ports := list -}}
{{- if .Values.networkPolicy.natsPort -}}
{{- $ports = list (int .Values.networkPolicy.natsPort) -}}
{{- else -}}
{{- range splitList "," (include "millstream.natsUrl" .) -}}
{{- $usual := get (dict "ws" 80 "wss" 443) (first (splitList "://" .)) | default 4222 -}}
{{- $named := regexFind ":[0-9]+/?$" . | trimPrefix ":" | trimSuffix "/" -}}
{{- $ports = append $ports (int (default $usual $named)) -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* A quantity of Kubernetes in bytes: the API writes 1024Mi as 1Gi, and 0.1Gi in thousandths. */}}
{{- define "millstream.bytes" -}}
{{- $units := dict "m" 0.001 "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15
  "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- $text := toString . -}}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units (regexFind "[A-Za-z]*$" $text) | float64) | int64 -}}
{{- end -}}
