{{/*
The one pod template: of every stage, of setup and of the test. Takes a dictionary:
root; component; user (of NATS); values (the defaults with the component's own over them); resources; containers and initContainers (each:
name, command); and of a stage: stage (its values), section (of its configuration), storage (claim, memory or none).
*/}}
{{- define "millstream.pod" -}}
{{- $root := .root -}}
{{- $values := .values -}}
metadata:
  labels:
    {{- include "millstream.labels" . | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .stage $values.podAnnotations }}
  annotations:
    {{- if .stage }}
    millstream/config-checksum: {{ default "" $values.config | sha256sum }}
    {{- end }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  {{- if .hook }}
  serviceAccountName: default
  {{- else }}
  serviceAccountName: {{ include "millstream.serviceAccountName" $root | quote }}
  {{- end }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .restartPolicy }}
  restartPolicy: {{ . }}
  {{- end }}
  # The stage's own limit, and time for its last words.
  terminationGracePeriodSeconds: {{ add $root.Values.shutdownLimitSeconds 20 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .spread }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "millstream.selector" $ | nindent 10 }}
    {{- end }}
  {{- end }}
  {{- if or .initContainers $values.initContainers }}
  initContainers:
    {{- with $values.initContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- range .initContainers }}
    - {{- include "millstream.container" (dict "pod" $ "container" .) | nindent 6 }}
    {{- end }}
  {{- end }}
  containers:
    {{- range .containers }}
    - {{- include "millstream.container" (dict "pod" $ "container" .) | nindent 6 }}
    {{- end }}
    {{- if .stage }}
    {{- with $values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
  {{- $volumes := include "millstream.volumes" . | trim }}
  {{- if $volumes }}
  volumes:
    {{- $volumes | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Whether setup runs as a hook of helm, before everything else. With nats.enabled its server is only there afterwards. */}}
{{- define "millstream.setupIsHook" -}}
{{- if and .Values.setup.hook (not .Values.nats.enabled) -}}true{{- end -}}
{{- end -}}

{{/* The values of a pod that ends: the defaults of the stages, and the component's own over them. Takes root and own. */}}
{{- define "millstream.jobValues" -}}
{{- mergeOverwrite (deepCopy .root.Values.defaults) (omit (deepCopy .own) "enabled" "hook" "takeOver" "annotations" "streamReplicas" "maxBytes" "command" "query") | toYaml -}}
{{- end -}}

{{- define "millstream.container" -}}
{{- $pod := .pod -}}
{{- $root := $pod.root -}}
name: {{ .container.name }}
image: {{ include "millstream.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
command:
  {{- toYaml .container.command | nindent 2 }}
{{- if and $pod.stage $pod.stage.config }}
args: ["--config", "/etc/millstream/stage.toml"]
{{- else if .container.args }}
args:
  {{- toYaml .container.args | nindent 2 }}
{{- end }}
env:
  {{- include "millstream.env" $pod | trim | nindent 2 }}
  {{- with $pod.values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
resources:
  {{- toYaml $pod.resources | nindent 2 }}
{{- if $pod.stage }}
ports:
  - name: health
    containerPort: {{ $root.Values.healthPort }}
  {{- with $pod.stage.http }}
  - name: http
    containerPort: {{ .port }}
  {{- end }}
{{- if and $pod.stage.http (semverCompare ">=1.30.0-0" $root.Capabilities.KubeVersion.Version) }}
# The socket closes with SIGTERM, and it takes a moment until nobody routes to the pod any more.
lifecycle:
  preStop:
    sleep: { seconds: 5 }
{{- end }}
# Alive never depends on NATS: a restart would not bring a server back. Reading everything again takes its time, which only
# readiness shows.
startupProbe:
  httpGet: { path: /livez, port: health }
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /livez, port: health }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: { path: /readyz, port: health }
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}
{{- $mounts := include "millstream.volumeMounts" $pod | trim }}
{{- if $mounts }}
volumeMounts:
  {{- $mounts | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "millstream.env" -}}
{{- $values := .root.Values -}}
{{- $connection := $values.connection -}}
- name: MILLSTREAM_NATS__URL
  value: {{ include "millstream.natsUrl" .root | quote }}
{{- if eq $connection.secret.kind "password" }}
- name: MILLSTREAM_NATS__USER
  value: {{ .user | quote }}
- name: MILLSTREAM_NATS__PASSWORD_FILE
  value: /etc/millstream-nats/password
{{- else if eq $connection.secret.kind "credentials" }}
- name: MILLSTREAM_NATS__CREDENTIALS_FILE
  value: /etc/millstream-nats/creds
{{- end }}
{{- with $connection.tls }}
{{- if .secretName }}
- name: MILLSTREAM_NATS__CA_FILE
  value: /etc/millstream-tls/ca.crt
{{- end }}
{{- if .clientCertificate }}
- name: MILLSTREAM_NATS__CERT_FILE
  value: /etc/millstream-tls/tls.crt
- name: MILLSTREAM_NATS__KEY_FILE
  value: /etc/millstream-tls/tls.key
{{- end }}
{{- if .first }}
- name: MILLSTREAM_NATS__TLS_FIRST
  value: "true"
{{- end }}
{{- end }}
{{- with $connection.jetstreamDomain }}
- name: MILLSTREAM_NATS__JETSTREAM_DOMAIN
  value: {{ . | quote }}
{{- end }}
# A pod waits for its server as long as it takes; readiness says so.
- name: MILLSTREAM_NATS__CONNECT_TIMEOUT
  value: {{ ternary "0s" "2m" (not (empty .stage)) | quote }}
{{- if .stage }}
- name: MILLSTREAM_PROCESS__INSTANCE
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['apps.kubernetes.io/pod-index']
- name: MILLSTREAM_TELEMETRY__ADDRESS
  value: "0.0.0.0:{{ $values.healthPort }}"
- name: MILLSTREAM_TELEMETRY__FORMAT
  value: json
- name: MILLSTREAM_TELEMETRY__FILTER
  value: {{ $values.logFilter | quote }}
- name: MILLSTREAM_SHUTDOWN__LIMIT
  value: "{{ $values.shutdownLimitSeconds }}s"
{{- with .stage.http }}
- name: MILLSTREAM_GATEWAY__LISTEN
  value: "0.0.0.0:{{ .port }}"
- name: MILLSTREAM_GATEWAY__KEYS_FILE
  value: /etc/millstream-keys/keys.toml
{{- if .idSecret }}
- name: MILLSTREAM_GATEWAY__ID_SECRET_FILE
  value: /etc/millstream-id/secret
{{- end }}
{{- end }}
{{- with .stage.queries }}
- name: MILLSTREAM_SQL__QUERIES
  value: /etc/millstream-queries
{{- end }}
{{- if .stage.adHoc }}
- name: MILLSTREAM_SQL__AD_HOC
  value: "true"
{{- end }}
{{- with .stage.postgres }}
{{- if .database }}
- name: MILLSTREAM_SQL__DATABASE
  value: {{ .database | quote }}
{{- if .secretName }}
- name: MILLSTREAM_SQL__PASSWORD_FILE
  value: /etc/millstream-postgres/{{ .passwordEntry }}
{{- end }}
{{- if .readers }}
- name: MILLSTREAM_SQL__READERS
  value: {{ .readers | quote }}
{{- if .secretName }}
- name: MILLSTREAM_SQL__READERS_PASSWORD_FILE
  value: /etc/millstream-postgres/{{ .readersPasswordEntry }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if ne .storage "none" }}
- name: MILLSTREAM_{{ .section | upper }}__DATA_DIRECTORY
  value: /data
{{- end }}
{{- end }}
{{- end -}}

{{- define "millstream.volumeMounts" -}}
{{- $connection := .root.Values.connection -}}
{{- if ne $connection.secret.kind "none" }}
- name: nats
  mountPath: /etc/millstream-nats
  readOnly: true
{{- end }}
{{- if $connection.tls.secretName }}
- name: tls
  mountPath: /etc/millstream-tls
  readOnly: true
{{- end }}
{{- if .stage }}
{{- if .stage.config }}
- name: config
  mountPath: /etc/millstream
  readOnly: true
{{- end }}
{{- if .stage.http }}
- name: keys
  mountPath: /etc/millstream-keys
  readOnly: true
{{- if .stage.http.idSecret }}
- name: id
  mountPath: /etc/millstream-id
  readOnly: true
{{- end }}
{{- end }}
{{- range $context, $map := .stage.queries }}
- name: queries-{{ $context }}
  mountPath: /etc/millstream-queries/{{ $context }}
  readOnly: true
{{- end }}
{{- with .stage.postgres }}
{{- if .secretName }}
- name: postgres
  mountPath: /etc/millstream-postgres
  readOnly: true
{{- end }}
{{- end }}
{{- if ne .storage "none" }}
- name: data
  mountPath: /data
{{- end }}
{{- end }}
{{- with .values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "millstream.volumes" -}}
{{- $connection := .root.Values.connection -}}
{{- if eq $connection.secret.kind "password" }}
- name: nats
  secret:
    secretName: {{ $connection.secret.name }}
    items:
      - { key: {{ .user }}.password, path: password }
{{- else if eq $connection.secret.kind "credentials" }}
- name: nats
  secret:
    secretName: {{ $connection.secret.name }}
    items:
      - { key: {{ .user }}.creds, path: creds }
{{- end }}
{{- if $connection.tls.secretName }}
- name: tls
  secret:
    secretName: {{ $connection.tls.secretName }}
{{- end }}
{{- if .stage }}
{{- if .stage.config }}
- name: config
  configMap:
    name: {{ include "millstream.fullname" .root }}-{{ .component }}
{{- end }}
{{- with .stage.http }}
- name: keys
  secret:
    secretName: {{ .keysSecret }}
    items:
      - { key: {{ .keysEntry }}, path: keys.toml }
{{- if .idSecret }}
- name: id
  secret:
    secretName: {{ .idSecret }}
    items:
      - { key: {{ .idEntry }}, path: secret }
{{- end }}
{{- end }}
{{- range $context, $map := .stage.queries }}
- name: queries-{{ $context }}
  configMap:
    name: {{ $map }}
{{- end }}
{{- with .stage.postgres }}
{{- if .secretName }}
- name: postgres
  secret:
    secretName: {{ .secretName }}
{{- end }}
{{- end }}
{{- if eq .storage "memory" }}
- name: data
  emptyDir:
    sizeLimit: {{ .stage.persistence.size }}
{{- end }}
{{- end }}
{{- with .values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
