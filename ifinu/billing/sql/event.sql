-- Decides the steps of an event of some charges: a payment, or their creation. Each goes once, as soon as it may.
WITH given AS MATERIALIZED (
    SELECT c.*, c.amount - c.paid AS left_to_pay, c.method = 'card' AND c.recurrence_id IS NOT NULL AS automatic,
           t.tz, t.receipts, t.daily_cap,
           t.status = 'suspended' OR (t.status <> 'lifetime' AND t.active_until <= :now) AS is_tenant_inactive,
           CAST(CAST(:now AS timestamptz) AT TIME ZONE t.tz AS date) AS today,
           CAST(CAST(:now AS timestamptz) AT TIME ZONE t.tz AS time) AS clock,
           k.channels, k.active, k.hold_until AS customer_hold_until, k.calendar_id,
           k.phone, coalesce(k.rule_id, t.rule_id) AS rule_id
      FROM charges c
      JOIN billing_tenants t ON t.id = c.tenant
      JOIN customers k ON k.tenant = c.tenant AND k.id = c.customer_id
     WHERE c.seq = ANY(:seqs)),
timed AS MATERIALIZED (
    SELECT g.*, coalesce(y.send_on, g.today) AS send_on,
           CASE WHEN y.send_on > g.today OR g.clock < y.opens THEN y.opens ELSE g.clock END AS goes_at
      FROM given g
      LEFT JOIN LATERAL (
        SELECT d.send_on, d.opens FROM send_days d
         WHERE d.calendar_id = g.calendar_id AND d.day BETWEEN g.today AND g.today + 1
           AND (d.send_on > g.today OR d.closes > g.clock)
         ORDER BY d.day LIMIT 1) y ON true),
judged AS (
    SELECT g.seq, g.due_date, g.tenant, g.customer_id, g.phone, g.today, g.send_on, g.goes_at, g.tz,
           s.step, s.kind, s.channel, s.text, s.valid_days,
           CASE WHEN s.trigger = 'payment' AND g.receipts = 'never' THEN 'condition'
                WHEN s.trigger = 'payment' AND g.receipts = 'after_notice' AND NOT EXISTS (
                    SELECT FROM intents i WHERE i.charge_seq = g.seq AND i.kind <> 'pagamento' AND i.queued_at IS NOT NULL
                     UNION ALL
                    SELECT FROM intents i WHERE i.charge_seq = g.seq AND i.state = 'merged') THEN 'condition'
                WHEN CAST(s.condition ->> 'min_amount' AS numeric) > g.amount
                  OR CAST(s.condition ->> 'max_amount' AS numeric) < g.amount
                  OR NOT s.condition -> 'method' ? g.method
                  OR CAST(s.condition ->> 'automatic' AS boolean) <> g.automatic THEN 'condition'
                WHEN g.today < s.effective_on THEN 'before_rule'
                WHEN NOT g.notify THEN 'muted'
                WHEN NOT g.active THEN 'customer_inactive'
                WHEN g.is_tenant_inactive THEN 'tenant_inactive'
                WHEN s.trigger = 'creation' AND greatest(g.hold_until, g.customer_hold_until) > g.today THEN 'on_hold'
                WHEN s.channel <> ALL (g.channels) THEN 'email_only'
                WHEN g.phone IS NULL THEN 'no_phone'
                WHEN g.today + s.valid_days <= g.send_on
                  OR (s.trigger = 'creation' AND g.due_date <= g.today) THEN 'stale' END AS reason,
           CASE WHEN s.trigger = 'creation' THEN g.daily_cap - (
               SELECT count(*) FROM customers p
                 JOIN intents i ON i.tenant = p.tenant AND i.customer_id = p.id AND i.state IN ('planned', 'queued')
                WHERE p.tenant = g.tenant AND p.phone = g.phone AND i.kind <> 'pagamento' AND i.planned_on <= g.send_on
                  AND CASE i.state WHEN 'planned' THEN i.planned_on = g.send_on ELSE i.reason IS NULL
                      AND greatest(i.planned_on, CAST(i.queued_at AT TIME ZONE g.tz AS date)) = g.send_on END) END AS slots
      FROM timed g
      JOIN rule_steps s ON s.rule_id = g.rule_id AND s.trigger = :trigger),
capped AS (
    SELECT seq, due_date, tenant, customer_id, phone, today, send_on, goes_at, tz, step, kind, channel, text, valid_days,
           CASE WHEN reason IS NULL AND :trigger = 'creation' AND slots < row_number() OVER (
                    PARTITION BY tenant, phone, reason IS NULL ORDER BY due_date, seq) THEN 'capped'
                ELSE reason END AS reason
      FROM judged)
INSERT INTO intents (charge_seq, step, due_date, id, tenant, customer_id, kind, channel, text, planned_on,
                     not_before, valid_until, state, reason, decided_at)
SELECT seq, step, due_date, 'c' || seq || '.' || step || '.' || to_char(due_date, 'YYMMDD'),
       tenant, customer_id, kind, channel, text, CASE WHEN reason IS NULL THEN send_on ELSE today END,
       CASE WHEN reason IS NULL THEN (send_on + goes_at) AT TIME ZONE tz END,
       CASE WHEN reason IS NULL THEN CAST(today + valid_days AS timestamp) AT TIME ZONE tz END,
       CASE WHEN reason IS NULL THEN 'planned' ELSE 'skipped' END, reason, :now
  FROM capped
ON CONFLICT (charge_seq, step, due_date, n) DO NOTHING
RETURNING id, state
