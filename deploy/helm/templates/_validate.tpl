{{/* What contradicts itself fails before anything is applied, naming both keys. */}}
{{- define "ifinu.validate" -}}
{{- $v := .Values -}}
{{- $worker := $v.worker -}}
{{- if and $worker.autoscaling.enabled $worker.keda.enabled -}}
{{- fail "worker.autoscaling.enabled and worker.keda.enabled exclude each other, since KEDA makes the HPA: --set worker.autoscaling.enabled=false" -}}
{{- end -}}
{{- if and $worker.autoscaling.queue.enabled (not $worker.autoscaling.enabled) -}}
{{- fail "worker.autoscaling.queue.enabled needs worker.autoscaling.enabled: it is the metric of that HPA" -}}
{{- end -}}
{{- range $name, $scaled := dict "worker" $worker.autoscaling "evolution" $v.evolution.autoscaling -}}
{{- if gt (int $scaled.minReplicas) (int $scaled.maxReplicas) -}}
{{- fail (printf "%s.autoscaling.minReplicas (%d) is above %s.autoscaling.maxReplicas (%d)" $name (int $scaled.minReplicas) $name (int $scaled.maxReplicas)) -}}
{{- end -}}
{{- $byQueue := and (hasKey $scaled "queue") (dig "queue" "enabled" false $scaled) -}}
{{- if and $scaled.enabled (not $byQueue) (not (int $scaled.targetCPUUtilizationPercentage)) (not (int $scaled.targetMemoryUtilizationPercentage)) -}}
{{- fail (printf "%s.autoscaling.targetCPUUtilizationPercentage and %s.autoscaling.targetMemoryUtilizationPercentage are both 0: set one, or %s.autoscaling.enabled=false" $name $name $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $scaled := dict "worker" $worker "evolution" $v.evolution -}}
{{- if and $scaled.autoscaling.enabled (int $scaled.autoscaling.targetCPUUtilizationPercentage) (not (dig "resources" "requests" "cpu" "" $scaled)) -}}
{{- fail (printf "%s.autoscaling.targetCPUUtilizationPercentage is a share of %s.resources.requests.cpu, which is not set" $name $name) -}}
{{- end -}}
{{- if and $scaled.autoscaling.enabled (int $scaled.autoscaling.targetMemoryUtilizationPercentage) (not (dig "resources" "requests" "memory" "" $scaled)) -}}
{{- fail (printf "%s.autoscaling.targetMemoryUtilizationPercentage is a share of %s.resources.requests.memory, which is not set" $name $name) -}}
{{- end -}}
{{- end -}}
{{- if and $v.simulator.enabled $v.evolution.external.enabled -}}
{{- fail "simulator.enabled and evolution.external.enabled exclude each other: both stand in for the chart's Evolution API" -}}
{{- end -}}
{{- if and $v.evolution.external.enabled (not $v.evolution.external.url) -}}
{{- fail "evolution.external.enabled needs evolution.external.url, such as https://evolution.example.com" -}}
{{- end -}}
{{- if and $v.evolution.external.enabled (not $v.evolution.apiKey.value) (not $v.evolution.apiKey.existingSecret) -}}
{{- fail "evolution.external.enabled needs the key that it was started with: evolution.apiKey.existingSecret or evolution.apiKey.value" -}}
{{- end -}}
{{- if $v.redis.external.enabled -}}
{{- if not $v.redis.external.url -}}
{{- fail "redis.external.enabled needs redis.external.url, such as rediss://user@host:6379/0 (the password in redis.auth)" -}}
{{- end -}}
{{- end -}}
{{- if $v.postgres.external.enabled -}}
{{- if not $v.postgres.external.url -}}
{{- fail "postgres.external.enabled needs postgres.external.url, such as postgresql://ifinu@host:5432/ifinu (the password in postgres.auth)" -}}
{{- end -}}
{{- if and (not $v.postgres.auth.existingSecret) (not $v.postgres.auth.ifinuPassword) -}}
{{- fail "postgres.external.enabled needs its passwords: postgres.auth.existingSecret (keys ifinu-password, evolution-password) or postgres.auth.ifinuPassword" -}}
{{- end -}}
{{- if and (include "ifinu.ownEvolution" .) (not $v.postgres.external.evolutionUrl) -}}
{{- fail "postgres.external.enabled needs postgres.external.evolutionUrl too, since the chart's Evolution API needs a database" -}}
{{- end -}}
{{- if and (include "ifinu.ownEvolution" .) (not $v.postgres.auth.existingSecret) (not $v.postgres.auth.evolutionPassword) -}}
{{- fail "postgres.external.enabled needs postgres.auth.evolutionPassword too, or postgres.auth.existingSecret: the chart's Evolution API needs a database" -}}
{{- end -}}
{{- end -}}
{{- range $key, $url := dict "redis.external.url" $v.redis.external.url "redis.external.evolutionUrl" $v.redis.external.evolutionUrl "postgres.external.url" $v.postgres.external.url "postgres.external.evolutionUrl" $v.postgres.external.evolutionUrl "evolution.external.url" $v.evolution.external.url -}}
{{- if regexMatch "://[^@]*:[^@]*@|[?&]password=" $url -}}
{{- fail (printf "%s has a password in it, which would stand in a ConfigMap: put it into a Secret, see redis.auth, postgres.auth and evolution.apiKey" $key) -}}
{{- end -}}
{{- end -}}
{{- if and (not $v.postgres.external.enabled) (include "ifinu.ownEvolution" .) -}}
{{- $pods := ternary $v.evolution.autoscaling.maxReplicas $v.evolution.replicaCount $v.evolution.autoscaling.enabled | int -}}
{{- $wanted := add (mul $pods (int $v.evolution.connectionLimit)) 30 -}}
{{- if gt $wanted (int $v.postgres.maxConnections) -}}
{{- fail (printf "evolution.connectionLimit (%d) x %d pods and 30 of ifinu's do not fit into postgres.maxConnections (%d)" (int $v.evolution.connectionLimit) $pods (int $v.postgres.maxConnections)) -}}
{{- end -}}
{{- end -}}
{{- if $v.backup.enabled -}}
{{- if and $v.backup.persistence.enabled $v.backup.s3.url -}}
{{- fail "backup.persistence.enabled and backup.s3.url exclude each other: --set backup.persistence.enabled=false" -}}
{{- end -}}
{{- if not (or $v.backup.persistence.enabled $v.backup.s3.url) -}}
{{- fail "backup.enabled needs somewhere to put them: backup.persistence.enabled or backup.s3.url" -}}
{{- end -}}
{{- end -}}
{{- if and $v.reconciliation.enabled (not $v.webhook.payments.existingSecret) -}}
{{- fail "reconciliation.enabled needs the providers' API keys: webhook.payments.existingSecret" -}}
{{- end -}}
{{- if and $v.reconciliation.enabled (not $v.reconciliation.providers) -}}
{{- fail "reconciliation.enabled needs at least one of reconciliation.providers: asaas, stripe, woovi, mercado_pago" -}}
{{- end -}}
{{- range $name, $_ := $v.settings -}}
{{- if not (hasPrefix "IFINU_" $name) -}}
{{- fail (printf "settings.%s: settings of ifinu begin with IFINU_; other variables go into extraEnv of a component" $name) -}}
{{- end -}}
{{- if hasKey (fromYaml (include "ifinu.settings" $)) $name -}}
{{- fail (printf "settings.%s is set by the chart: use the value for it (%s)" $name (index (fromYaml (include "ifinu.settings.values" $)) $name)) -}}
{{- end -}}
{{- if regexMatch "(PASSWORD|SECRET|_KEY|FLOWER_AUTH)(_FILE)?$" $name -}}
{{- fail (printf "settings.%s is a secret, and would stand in a ConfigMap: use the existingSecret of redis.auth, postgres.auth, evolution.apiKey, webhook.secret, phoneKey or flower.auth" $name) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Not empty where the real Evolution API runs in this release. */}}
{{- define "ifinu.ownEvolution" -}}
{{- if not (or .Values.simulator.enabled .Values.evolution.external.enabled) }}yes{{ end }}
{{- end }}
