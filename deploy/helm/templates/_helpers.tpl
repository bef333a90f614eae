{{/* Names, labels and what every pod has in common. A context is `.`; what takes more gets a dict with `context`. */}}

{{- define "ifinu.name" -}}
ifinu
{{- end }}

{{- define "ifinu.chart" -}}
{{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What selects the pods of a component; immutable, so nothing else is ever added. */}}
{{- define "ifinu.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ifinu.name" .context }}
app.kubernetes.io/instance: {{ .context.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/*
Labels of an object: `component`, and the name that operators know it by as `app`. Ours win over the user's.
*/}}
{{- define "ifinu.labels" -}}
{{- $ours := fromYaml (include "ifinu.selectorLabels" .) -}}
{{- $_ := set $ours "app.kubernetes.io/part-of" "ifinu" -}}
{{- $_ := set $ours "app.kubernetes.io/version" .context.Chart.AppVersion -}}
{{- $_ := set $ours "app.kubernetes.io/managed-by" .context.Release.Service -}}
{{- $_ := set $ours "helm.sh/chart" (include "ifinu.chart" .context) -}}
{{- if .app }}{{ $_ := set $ours "app" .app }}{{ end -}}
{{- toYaml (merge $ours (deepCopy .context.Values.commonLabels)) -}}
{{- end }}

{{/* Labels of a pod: as an object's, but what changes with the chart's version would restart it for nothing. */}}
{{- define "ifinu.podLabels" -}}
{{- $ours := fromYaml (include "ifinu.selectorLabels" .) -}}
{{- $_ := set $ours "app" .app -}}
{{- toYaml (merge $ours (deepCopy (.values.podLabels | default dict)) (deepCopy .context.Values.commonLabels)) -}}
{{- end }}

{{- define "ifinu.image" -}}
{{- $tag := .image.tag | default .context.Chart.AppVersion -}}
{{- if .image.digest -}}{{ .image.repository }}@{{ .image.digest }}{{- else -}}{{ .image.repository }}:{{ $tag }}{{- end -}}
{{- end }}

{{- define "ifinu.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end }}

{{/* Part of every pod's spec. `values` are the component's; `uid` is the user it runs as. */}}
{{- define "ifinu.pod" -}}
serviceAccountName: {{ include "ifinu.serviceAccountName" .context }}
automountServiceAccountToken: false
enableServiceLinks: false # a Service's variables are not settings
{{- with .context.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .uid }}
  runAsGroup: {{ .uid }}
  fsGroup: {{ .uid }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Pods of a component apart from each other, as far as there are nodes. */}}
{{- define "ifinu.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "ifinu.selectorLabels" . | nindent 8 }}
{{- end }}

{{- define "ifinu.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Image and settings of a container of ours. `env` are the variables that it alone has. */}}
{{- define "ifinu.container" -}}
image: {{ include "ifinu.image" (dict "context" .context "image" .context.Values.image) }}
imagePullPolicy: {{ .context.Values.image.pullPolicy }}
securityContext:
  {{- include "ifinu.containerSecurity" . | nindent 2 }}
envFrom:
  - configMapRef:
      name: ifinu-config
{{- end }}

{{- define "ifinu.tmp" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- end }}

{{- define "ifinu.checksum" -}}
checksum/config: {{ include (print .Template.BasePath "/configmap.yaml") . | sha256sum }}
{{- end }}

{{/*
A Secret of passwords: of each of `keys` the value that is given, else the one in the cluster, else a new one. Where the
cluster has them all it is not rendered, and never part of what Helm installs (a hook is not): an upgrade, a rollback and an
uninstall leave it as it is. What else is in it stays.
*/}}
{{- define "ifinu.keptSecret" -}}
{{- $live := (lookup "v1" "Secret" .context.Release.Namespace .secret).data | default dict -}}
{{- $data := deepCopy $live -}}
{{- range .keys -}}
{{- if .value -}}{{- $_ := set $data .key (b64enc .value) -}}
{{- else if not (hasKey $data .key) -}}{{- $_ := set $data .key (printf "%s%s" (.prefix | default "") (randAlphaNum 40) | b64enc) -}}
{{- end -}}
{{- end -}}
{{- if not (deepEqual $data $live) -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ .secret }}
  labels:
    {{- include "ifinu.labels" . | nindent 4 }}
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/resource-policy: keep
type: Opaque
data:
  {{- toYaml $data | nindent 2 }}
{{- end -}}
{{- end }}

{{/*
How many pods an autoscaler is to find: as many as there are, so that switching it on or upgrading stops none; else the least.
*/}}
{{- define "ifinu.scaledReplicas" -}}
{{- $spec := (lookup "apps/v1" .kind .context.Release.Namespace .name).spec | default dict -}}
{{ if hasKey $spec "replicas" }}{{ int $spec.replicas }}{{ else }}{{ int .least }}{{ end }}
{{- end }}

{{/* Messages a second of a pod: 50/s and 3000/m are 50, 100/h is 0.02777… */}}
{{- define "ifinu.ratePerSecond" -}}
{{- $count := regexFind "^[0-9.]+" .Values.worker.rateLimit | float64 -}}
{{- $per := ternary 60.0 (ternary 3600.0 1.0 (hasSuffix "/h" .Values.worker.rateLimit)) (hasSuffix "/m" .Values.worker.rateLimit) -}}
{{ divf $count $per }}
{{- end }}

{{/* How a worker is scaled: the backlog of one pod, in messages. */}}
{{- define "ifinu.backlogPerPod" -}}
{{ mulf (include "ifinu.ratePerSecond" . | float64) .Values.worker.autoscaling.queue.backlogSeconds | ceil | int | max 1 }}
{{- end }}

{{/* A number for people: 1000 and 0.06, not 1e+03. */}}
{{- define "ifinu.figure" -}}
{{ regexReplaceAll "[.]?0+$" (printf "%.2f" .) "" }}
{{- end }}

{{/* storageClassName: the cluster's default for "", none for "-". */}}
{{- define "ifinu.storageClass" -}}
{{- if eq . "-" }}
storageClassName: ""
{{- else if . }}
storageClassName: {{ . }}
{{- end }}
{{- end }}
