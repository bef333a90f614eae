"""
Every Prometheus series, in one module for each process that serves some. docs/metrics.md lists them.

    worker_series     a worker: what became of messages, how long it took, at which pace
    webhook_series    the webhook application: receipts, opt-outs, connection states
    recorder_series   the recorder: how far the ledger is, and the guard beside it
    redis_series      the exporter: the state of Redis
    number_series     the exporter: the registered numbers, as Redis knows them
    polls             the exporter: the state of the ledger, the registry, the numbers and the gateway
    endpoint          serves `/metrics`

No label holds a phone, a name, a text or an id, and each label takes its values from a bounded set.
"""
