{{/* Where things are, and the Secrets that open them. */}}

{{- define "ifinu.redis.secret" -}}
{{ .Values.redis.auth.existingSecret | default "redis-queue" }}
{{- end }}

{{- define "ifinu.postgres.secret" -}}
{{ .Values.postgres.auth.existingSecret | default "evolution-postgres" }}
{{- end }}

{{- define "ifinu.evolution.secret" -}}
{{ .Values.evolution.apiKey.existingSecret | default "evolution-api" }}
{{- end }}

{{- define "ifinu.redisUrl" -}}
{{ ternary .Values.redis.external.url "redis://redis-queue-service:6379/0" .Values.redis.external.enabled }}
{{- end }}

{{- define "ifinu.databaseUrl" -}}
{{ ternary .Values.postgres.external.url "postgresql://ifinu@evolution-postgres-service:5432/ifinu" .Values.postgres.external.enabled }}
{{- end }}

{{- define "ifinu.evolutionDatabaseUrl" -}}
{{ ternary .Values.postgres.external.evolutionUrl "postgresql://evolution@evolution-postgres-service:5432/evolution" .Values.postgres.external.enabled }}
{{- end }}

{{- define "ifinu.isSharded" -}}
{{- if .Values.evolution.external.enabled }}{{ .Values.evolution.external.sharded }}
{{- else }}{{ eq .Values.evolution.topology "sharded" }}
{{- end }}
{{- end }}

{{- define "ifinu.gatewayUrl" -}}
{{- if .Values.evolution.external.enabled }}{{ .Values.evolution.external.url }}
{{- else if eq .Values.evolution.topology "sharded" }}http://evolution-api-headless:8080
{{- else }}http://evolution-api-service:{{ .Values.evolution.service.port }}
{{- end }}
{{- end }}

{{/* A URL with its password, for the gateway, which accepts no other form. Kubernetes expands `variable`. */}}
{{- define "ifinu.withPassword" -}}
{{- $user := regexReplaceAll "^[a-z]+://(?:([^@/]*)@)?.*$" .url "${1}" -}}
{{- regexReplaceAll "^([a-z]+://)(?:[^@/]*@)?(.*)$" .url (printf "${1}%s:$(%s)@${2}" $user .variable) -}}
{{- end }}

{{/* Not empty where Redis has a password: one outside may have none. */}}
{{- define "ifinu.redis.hasPassword" -}}
{{- if or (not .Values.redis.external.enabled) .Values.redis.auth.existingSecret .Values.redis.auth.value }}yes{{ end }}
{{- end }}

{{/* Redis, for every process of ours. */}}
{{- define "ifinu.env.redis" -}}
{{- if include "ifinu.redis.hasPassword" . }}
- name: IFINU_REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "ifinu.redis.secret" . }}
      key: {{ .Values.redis.auth.existingSecretKey }}
{{- end }}
{{- end }}

{{- define "ifinu.env.database" -}}
- name: IFINU_DATABASE_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "ifinu.postgres.secret" . }}
      key: ifinu-password
{{- end }}

{{- define "ifinu.env.gateway" -}}
- name: IFINU_EVOLUTION_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "ifinu.evolution.secret" . }}
      key: {{ .Values.evolution.apiKey.existingSecretKey }}
{{- end }}

{{- define "ifinu.env.phoneKey" -}}
- name: IFINU_PHONE_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .Values.phoneKey.existingSecret | default "ifinu-secrets" }}
      key: {{ .Values.phoneKey.existingSecretKey }}
{{- end }}

{{- define "ifinu.env.webhookSecret" -}}
- name: IFINU_WEBHOOK_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ .Values.webhook.secret.existingSecret | default "ifinu-secrets" }}
      key: {{ .Values.webhook.secret.existingSecretKey }}
{{- end }}

{{/* There while the secret is changed; only who receives asks for it. */}}
{{- define "ifinu.env.webhookSecretBefore" -}}
- name: IFINU_WEBHOOK_SECRET_PREVIOUS
  valueFrom:
    secretKeyRef:
      name: {{ .Values.webhook.secret.existingSecret | default "ifinu-secrets" }}
      key: {{ .Values.webhook.secret.existingSecretKey }}-previous
      optional: true
{{- end }}

{{/* Everything that the command line may be asked for in a pod: `kubectl exec deployment/ifinu-worker -- ifinu doctor`. */}}
{{- define "ifinu.env.all" -}}
{{ include "ifinu.env.redis" . }}
{{ include "ifinu.env.database" . }}
{{ include "ifinu.env.gateway" . }}
{{ include "ifinu.env.phoneKey" . }}
{{ include "ifinu.env.webhookSecret" . }}
{{- end }}

{{/* Not empty if the chart generates a password, because none was given. */}}
{{- define "ifinu.makesSecrets" -}}
{{- $v := .Values -}}
{{- $given := list -}}
{{- if not $v.redis.external.enabled }}{{ $given = append $given (or $v.redis.auth.existingSecret $v.redis.auth.value) }}{{ end -}}
{{- if not $v.postgres.external.enabled -}}
{{- $auth := $v.postgres.auth -}}
{{- $given = append $given (or $auth.existingSecret (and $auth.postgresPassword $auth.ifinuPassword $auth.evolutionPassword)) -}}
{{- end -}}
{{- if $v.flower.enabled }}{{ $given = append $given (or $v.flower.auth.existingSecret $v.flower.auth.value) }}{{ end -}}
{{- range list $v.evolution.apiKey $v.webhook.secret $v.phoneKey }}{{ $given = append $given (or .existingSecret .value) }}{{ end -}}
{{- if has "" $given }}yes{{ end -}}
{{- end }}

{{/* The volume with the payment providers' secrets. */}}
{{- define "ifinu.payments" -}}
- name: payments
  secret:
    secretName: {{ .Values.webhook.payments.existingSecret }}
    defaultMode: 0440
    items:
      - key: {{ .Values.webhook.payments.existingSecretKey }}
        path: payments.json
{{- end }}
