{{/* Where backups are, and what they are of. */}}
{{- define "ifinu.backup.env" -}}
- name: IFINU_BACKUP_STORE
  value: {{ .Values.backup.s3.url | default "/backups" | quote }}
- name: IFINU_BACKUP_KEEP_DAYS
  value: {{ .Values.backup.keepDays | quote }}
{{- if .Values.backup.s3.url }}
{{- with .Values.backup.s3.endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- with .Values.backup.s3.region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .Values.backup.s3.existingSecret }}
{{- range $key := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ $key }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.backup.s3.existingSecret }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ifinu.backup.servers" -}}
{{ include "ifinu.env.redis" . }}
{{ include "ifinu.env.database" . }}
{{ include "ifinu.env.phoneKey" . }}
{{- if include "ifinu.ownEvolution" . }}
- name: IFINU_EVOLUTION_DATABASE_URL
  value: {{ include "ifinu.evolutionDatabaseUrl" . | quote }}
- name: IFINU_EVOLUTION_DATABASE_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "ifinu.postgres.secret" . }}
      key: evolution-password
{{- end }}
{{- end }}

{{- define "ifinu.backup.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .Values.backup.persistence.enabled }}
- name: backups
  mountPath: /backups
{{- end }}
{{- end }}

{{- define "ifinu.backup.volumes" -}}
{{ include "ifinu.tmp" . }} # dumps go straight to the store
{{- if .Values.backup.persistence.enabled }}
- name: backups
  persistentVolumeClaim:
    claimName: {{ .Values.backup.persistence.existingClaim | default "ifinu-backup" }}
{{- end }}
{{- end }}
