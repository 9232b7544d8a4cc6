{{/* Names and labels. */}}

{{- define "millstream.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Of all objects. Takes root and component. */}}
{{- define "millstream.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: millstream
{{ include "millstream.selector" . }}
{{- end -}}

{{/* What never changes for an object. */}}
{{- define "millstream.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "millstream.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "millstream.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "millstream.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
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

{{- define "millstream.natsUrl" -}}
{{- if .Values.nats.enabled -}}
{{- $name := default (default "nats" .Values.nats.nameOverride) .Values.nats.fullnameOverride -}}
{{- if and (not .Values.nats.fullnameOverride) (not (contains "nats" .Release.Name)) -}}
{{- $name = printf "%s-%s" .Release.Name $name -}}
{{- else if not .Values.nats.fullnameOverride -}}
{{- $name = .Release.Name -}}
{{- end -}}
{{- printf "nats://%s:4222" $name -}}
{{- else -}}
{{- .Values.connection.url -}}
{{- end -}}
{{- end -}}
