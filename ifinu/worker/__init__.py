"""The Celery application: its configuration, its task, and a consumer that keeps the pace."""
