{{/* The settings that all processes of ours share, and which value of the chart each comes from. */}}

{{- define "ifinu.settings" -}}
IFINU_REDIS_URL: {{ include "ifinu.redisUrl" . | quote }}
IFINU_DATABASE_URL: {{ include "ifinu.databaseUrl" . | quote }}
IFINU_EVOLUTION_URL: {{ include "ifinu.gatewayUrl" . | quote }}
IFINU_EVOLUTION_SHARDED: {{ include "ifinu.isSharded" . | quote }}
IFINU_EVOLUTION_INSTANCE: {{ .Values.evolution.instance | quote }}
IFINU_EVOLUTION_READ_TIMEOUT_S: {{ .Values.worker.readTimeoutSeconds | quote }}
IFINU_RATE_LIMIT: {{ .Values.worker.rateLimit | quote }}
IFINU_CONCURRENCY: {{ .Values.worker.concurrency | quote }}
IFINU_RECORDER: "false"
IFINU_RETENTION_DAYS: {{ .Values.recorder.retentionDays | quote }}
IFINU_WEBHOOK_URL: "http://ifinu-webhook:8090"
IFINU_SANDBOX_NUMBER: {{ include "ifinu.sandboxNumber" . | quote }}
IFINU_SENDING_HOLIDAYS: {{ ternary "" .Values.sendingHolidays .Values.simulator.enabled | quote }}
IFINU_LOG_LEVEL: {{ .Values.logLevel | quote }}
IFINU_LOG_FORMAT: json
IFINU_TRACING: {{ .Values.tracing.enabled | quote }}
{{- end }}

{{/* `--set sandboxNumber=77998616740` is a number to Helm, and would be written as 7.8e+10. */}}
{{- define "ifinu.sandboxNumber" -}}
{{- $number := .Values.sandboxNumber | default (ternary .Values.simulator.sandboxNumber "" .Values.simulator.enabled) -}}
{{- if kindIs "string" $number }}{{ $number }}{{ else }}{{ int64 $number }}{{ end }}
{{- end }}

{{- define "ifinu.settings.values" -}}
IFINU_REDIS_URL: redis.external.url
IFINU_DATABASE_URL: postgres.external.url
IFINU_EVOLUTION_URL: evolution.external.url
IFINU_EVOLUTION_SHARDED: evolution.topology
IFINU_EVOLUTION_INSTANCE: evolution.instance
IFINU_EVOLUTION_READ_TIMEOUT_S: worker.readTimeoutSeconds
IFINU_RATE_LIMIT: worker.rateLimit
IFINU_CONCURRENCY: worker.concurrency
IFINU_RECORDER: none, there is a Deployment for it
IFINU_RETENTION_DAYS: recorder.retentionDays
IFINU_WEBHOOK_URL: none, it is the Service ifinu-webhook
IFINU_SANDBOX_NUMBER: sandboxNumber
IFINU_SENDING_HOLIDAYS: sendingHolidays
IFINU_LOG_LEVEL: logLevel
IFINU_LOG_FORMAT: none, a container logs JSON
IFINU_TRACING: tracing.enabled
{{- end }}
