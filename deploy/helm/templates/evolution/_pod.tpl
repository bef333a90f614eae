{{/* The pod of the Evolution API; of either topology. */}}
{{- define "ifinu.evolution.template" -}}
{{- $component := dict "context" . "component" "evolution" "app" "evolution-api" "values" .Values.evolution "uid" 1000 -}}
{{- $sharded := eq .Values.evolution.topology "sharded" -}}
metadata:
  labels:
    {{- include "ifinu.podLabels" $component | nindent 4 }}
  annotations:
    {{- if .Values.evolution.guard.enabled }}
    checksum/guard: {{ .Files.Get "files/guard.conf" | sha256sum }}
    {{- end }}
    {{- with .Values.evolution.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "ifinu.pod" $component | nindent 2 }}
  # The gateway has no handler for SIGTERM, so as PID 1 it would ignore it.
  shareProcessNamespace: true
  terminationGracePeriodSeconds: {{ add .Values.evolution.preStopSeconds 15 }}
  {{- include "ifinu.spread" $component | nindent 2 }}
  initContainers:
    # What the image does at each start as root, and without the code that it generates, which is in the image already.
    - name: migrate
      image: {{ include "ifinu.image" (dict "context" . "image" .Values.evolution.image) }}
      imagePullPolicy: {{ .Values.evolution.image.pullPolicy }}
      securityContext:
        {{- include "ifinu.containerSecurity" . | nindent 8 }}
      workingDir: /evolution
      command: [sh, -c]
      args:
        - cp -R prisma/postgresql-migrations/. prisma/migrations/ &&
          exec npx prisma migrate deploy --schema ./prisma/postgresql-schema.prisma
      env:
        {{- include "ifinu.evolution.env.database" . | nindent 8 }}
        - {name: HOME, value: /tmp}
        - {name: CHECKPOINT_DISABLE, value: "1"}
      {{- with .Values.evolution.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: migrations, mountPath: /evolution/prisma/migrations}
  containers:
    - name: evolution-api
      image: {{ include "ifinu.image" (dict "context" . "image" .Values.evolution.image) }}
      imagePullPolicy: {{ .Values.evolution.image.pullPolicy }}
      securityContext:
        {{- include "ifinu.containerSecurity" . | nindent 8 }}
      workingDir: /evolution
      # 2.3.7 prints inbound messages to its console, which a filter keeps off the logs. It runs beside: signals and the exit
      # code are the server's own.
      command: [sh, -c]
      args:
        - rm -f /tmp/console; mkfifo /tmp/console;
          case $(awk -W version </dev/null 2>&1) in mawk*) set -- -W interactive;; esac;
          awk "$@" -v file=/tmp/console.log "$CONSOLE_FILTER" </tmp/console &
          exec node dist/main >/tmp/console 2>&1
      env:
        {{- include "ifinu.evolution.env" . | nindent 8 }}
        - name: CONSOLE_FILTER
          value: |
            {{- .Files.Get "files/console.awk" | nindent 12 }}
        {{- with .Values.evolution.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: gateway
          containerPort: 8080
      # Not `/`, which contacts the Internet at each request.
      startupProbe:
        httpGet: {path: /manager/, port: gateway}
        periodSeconds: 5
        failureThreshold: 60
      readinessProbe:
        httpGet: {path: /manager/, port: gateway}
        periodSeconds: 10
        timeoutSeconds: 5
      livenessProbe:
        httpGet: {path: /manager/, port: gateway}
        periodSeconds: 20
        timeoutSeconds: 10
        failureThreshold: 6
      lifecycle:
        preStop:
          exec:
            command: [sleep, "{{ .Values.evolution.preStopSeconds }}"]
      {{- with .Values.evolution.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: instances, mountPath: /evolution/instances}
        - {name: store, mountPath: /evolution/store}
        {{- with .Values.evolution.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- if .Values.evolution.guard.enabled }}
    - name: guard
      image: {{ include "ifinu.image" (dict "context" . "image" .Values.evolution.guard.image) }}
      imagePullPolicy: {{ .Values.evolution.guard.image.pullPolicy }}
      securityContext:
        {{- include "ifinu.containerSecurity" . | nindent 8 }}
        runAsUser: 101
        runAsGroup: 101
      # /proc/net/if_inet6 is missing only where the kernel has no IPv6 (`ipv6.disable=1`); nginx's own image looks there too.
      command:
        - sh
        - -c
        - |
          [ ! -e /proc/net/if_inet6 ] || echo 'listen [::]:8081;' > /tmp/listen-ipv6.conf
          exec nginx -c /etc/guard/guard.conf -e stderr -g 'daemon off;'
      ports:
        - name: guard
          containerPort: 8081
      readinessProbe:
        tcpSocket: {port: guard}
        periodSeconds: 10
      livenessProbe:
        tcpSocket: {port: guard}
        periodSeconds: 20
      lifecycle:
        preStop:
          exec:
            command: [sleep, "{{ .Values.evolution.preStopSeconds }}"]
      {{- with .Values.evolution.guard.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - {name: guard-tmp, mountPath: /tmp}
        - {name: guard, mountPath: /etc/guard, readOnly: true}
    {{- end }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 1Gi # media on their way
    - name: migrations
      emptyDir:
        sizeLimit: 64Mi
    - name: store
      emptyDir:
        sizeLimit: 256Mi
    {{- if not (and $sharded .Values.evolution.persistence.enabled) }}
    - name: instances
      emptyDir:
        sizeLimit: 1Gi
    {{- end }}
    {{- if .Values.evolution.guard.enabled }}
    - name: guard-tmp
      emptyDir:
        sizeLimit: 16Mi
    - name: guard
      configMap:
        name: evolution-guard
    {{- end }}
    {{- with .Values.evolution.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "ifinu.evolution.env.database" -}}
- name: DATABASE_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "ifinu.postgres.secret" . }}
      key: evolution-password
- name: DATABASE_PROVIDER
  value: postgresql
- name: DATABASE_CONNECTION_URI
  {{- $url := include "ifinu.withPassword" (dict "url" (include "ifinu.evolutionDatabaseUrl" .) "variable" "DATABASE_PASSWORD") }}
  value: {{ printf "%s%sschema=public&connection_limit=%d&pool_timeout=20" $url (ternary "&" "?" (contains "?" $url)) (int .Values.evolution.connectionLimit) | quote }}
{{- end }}

{{/* The image has a file of defaults, with a publicly known key: variables that are not set here take those. */}}
{{- define "ifinu.evolution.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: AUTHENTICATION_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "ifinu.evolution.secret" . }}
      key: {{ .Values.evolution.apiKey.existingSecretKey }}
- {name: AUTHENTICATION_EXPOSE_IN_FETCH_INSTANCES, value: "false"}
- {name: SERVER_TYPE, value: http}
- {name: SERVER_PORT, value: "8080"}
- name: SERVER_URL
  value: {{ ternary "http://$(POD_NAME).evolution-api-headless:8080" (printf "http://evolution-api-service:%d" (int .Values.evolution.service.port)) (eq .Values.evolution.topology "sharded") }}
- {name: SERVER_DISABLE_MANAGER, value: "false"} # the probes ask it
{{ include "ifinu.evolution.env.database" . }}
# The name decides which sessions the pod owns; two pods of one name would fight over them.
- name: DATABASE_CONNECTION_CLIENT_NAME
  value: {{ ternary "$(POD_NAME)" "evolution" (eq .Values.evolution.topology "sharded") }}
- {name: DATABASE_SAVE_DATA_INSTANCE, value: "true"}
- {name: DATABASE_SAVE_DATA_NEW_MESSAGE, value: "true"} # what ifinu looks up
- {name: DATABASE_SAVE_MESSAGE_UPDATE, value: "true"}
- {name: DATABASE_SAVE_DATA_CONTACTS, value: "false"}
- {name: DATABASE_SAVE_DATA_CHATS, value: "false"}
- {name: DATABASE_SAVE_DATA_LABELS, value: "false"}
- {name: DATABASE_SAVE_DATA_HISTORIC, value: "false"}
- {name: DATABASE_SAVE_IS_ON_WHATSAPP, value: "true"}
- {name: DATABASE_SAVE_IS_ON_WHATSAPP_DAYS, value: "7"}
{{- $password := include "ifinu.redis.hasPassword" . }}
{{- if $password }}
- name: CACHE_REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "ifinu.redis.secret" . }}
      key: {{ .Values.redis.auth.existingSecretKey }}
{{- end }}
- {name: CACHE_REDIS_ENABLED, value: "true"}
{{- $redis := include "ifinu.redisUrl" . | regexFind "^[a-z]+://[^/]+" | printf "%s/6" }}
{{- if .Values.redis.external.enabled }}{{ $redis = .Values.redis.external.evolutionUrl | default $redis }}{{ end }}
- name: CACHE_REDIS_URI
  value: {{ ternary (include "ifinu.withPassword" (dict "url" $redis "variable" "CACHE_REDIS_PASSWORD")) $redis (not (empty $password)) | quote }}
- {name: CACHE_REDIS_PREFIX_KEY, value: evolution}
- {name: CACHE_REDIS_TTL, value: "604800"}
- {name: CACHE_REDIS_SAVE_INSTANCES, value: "false"}
- {name: CACHE_LOCAL_ENABLED, value: "false"}
- {name: DEL_INSTANCE, value: "false"}
- {name: TELEMETRY_ENABLED, value: "false"}
- {name: WEBHOOK_GLOBAL_ENABLED, value: "false"} # each instance has its own, with a secret: `ifinu instance webhook`
- {name: WEBHOOK_REQUEST_TIMEOUT_MS, value: "10000"}
- {name: LOG_LEVEL, value: "ERROR,WARN,INFO"} # more would print texts; inbound ones are printed all the same: files/console.awk
- {name: LOG_COLOR, value: "false"}
- {name: LOG_BAILEYS, value: error}
- {name: PROMETHEUS_METRICS, value: "true"}
- {name: METRICS_AUTH_REQUIRED, value: "false"}
- {name: METRICS_ALLOWED_IPS, value: ""}
- name: TZ
  value: {{ .Values.evolution.timeZone }}
{{- end }}
