{{/* The document with merge and patch applied, as JSON. Takes doc, merge and patch. */}}
{{- define "stand-in.edit" -}}
{{- $all := dict "doc" (mergeOverwrite .doc (deepCopy (default dict .merge))) -}}
{{- range default list .patch -}}
{{- if ne .op "add" -}}{{- fail (printf "the stand-in knows no %s" .op) -}}{{- end -}}
{{- $steps := splitList "/" (trimPrefix "/" .path) -}}
{{- $_ := set $all "doc" (include "stand-in.add" (dict "at" $all.doc "steps" $steps "value" .value) | fromJson).at -}}
{{- end -}}
{{- toJson $all.doc -}}
{{- end -}}

{{/* RFC 6902, add. Takes at (where we are), steps (the path from there) and value. */}}
{{- define "stand-in.add" -}}
{{- $at := .at -}}{{- $value := .value -}}
{{- $step := first .steps -}}{{- $rest := rest .steps -}}
{{- if kindIs "map" $at -}}
{{- if $rest -}}
{{- if not (hasKey $at $step) -}}{{- fail (printf "nothing is at %s" $step) -}}{{- end -}}
{{- $value = (include "stand-in.add" (dict "at" (get $at $step) "steps" $rest "value" $value) | fromJson).at -}}
{{- end -}}
{{- $_ := set $at $step $value -}}
{{- else if not (kindIs "slice" $at) -}}
{{- fail (printf "cannot add to %s" (kindOf $at)) -}}
{{- else if eq $step "-" -}}
{{- $at = append $at $value -}}
{{- else -}}
{{- $list := list -}}
{{- range $index, $each := $at -}}
{{- if and (eq (toString $index) $step) $rest -}}
{{- $each = (include "stand-in.add" (dict "at" $each "steps" $rest "value" $value) | fromJson).at -}}
{{- else if eq (toString $index) $step -}}
{{- $list = append $list $value -}}
{{- end -}}
{{- $list = append $list $each -}}
{{- end -}}
{{- $at = $list -}}
{{- end -}}
{{- dict "at" $at | toJson -}}
{{- end -}}

{{/* Values with every map of the one key $tplYaml replaced by what its template yields. Takes at and context. */}}
{{- define "stand-in.tpl" -}}
{{- $at := .at -}}{{- $context := .context -}}
{{- if and (kindIs "map" $at) (hasKey $at "$tplYaml") -}}
{{- $at = (tpl (printf "at: %s" (get $at "$tplYaml")) $context | fromYaml).at -}}
{{- else if kindIs "map" $at -}}
{{- $made := dict -}}
{{- range $key, $each := $at -}}
{{- $_ := set $made $key (include "stand-in.tpl" (dict "at" $each "context" $context) | fromJson).at -}}
{{- end -}}
{{- $at = $made -}}
{{- else if kindIs "slice" $at -}}
{{- $made := list -}}
{{- range $each := $at -}}
{{- $made = append $made (include "stand-in.tpl" (dict "at" $each "context" $context) | fromJson).at -}}
{{- end -}}
{{- $at = $made -}}
{{- end -}}
{{- dict "at" $at | toJson -}}
{{- end -}}

{{- define "stand-in.name" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "stand-in.image" -}}
{{- $registry := default .global.image.registry .image.registry -}}
{{- ternary (printf "%s/" $registry) "" (not (empty $registry)) }}{{ .image.repository }}:{{ .image.tag -}}
{{- end -}}
