-- Decides every step of some charges whose day has come, and moves their agenda to the day of their next step.
--
-- Of a charge the last step that still makes sense goes; the others are `skipped`, each with its reason. What a person
-- gets on a day becomes one message, or keeps to the tenant's cap. The charges and customers are locked (take.sql).
--
-- A person who is several customers (`kin`) has the calendar of the first. Where a message speaks of a charge of another
-- one, `customer_id` of that intent is the customer to whom the message goes.
--
-- OFFSET 0 and the aggregate keep the planner of PostgreSQL from reading whole tables for a chunk.
WITH kin AS MATERIALIZED (
    SELECT w.tenant, w.customer_id, w.person, k.calendar_id
      FROM unnest(CAST(:kin_tenants AS text[]), CAST(:kin_ids AS text[]), CAST(:kin_people AS text[]))
           AS w (tenant, customer_id, person)
     CROSS JOIN LATERAL (SELECT calendar_id FROM customers WHERE tenant = w.tenant AND id = w.person OFFSET 0) k),
due AS MATERIALIZED (
    SELECT c.*, c.amount - c.paid AS left_to_pay, c.method = 'card' AND c.recurrence_id IS NOT NULL AS automatic,
           t.spread_s, t.consolidate, t.daily_cap, t.overdue_gap_days,
           t.status = 'suspended' OR (t.status <> 'lifetime' AND t.active_until <= :now) AS is_tenant_inactive,
           k.phone IS NULL AS has_no_phone, k.channels, k.active, k.hold_until AS customer_hold_until,
           coalesce(p.person, c.customer_id) AS person, coalesce(p.calendar_id, k.calendar_id) AS calendar_id,
           coalesce(k.rule_id, t.rule_id) AS rule_id,
           coalesce(i.decided, '{}') AS decided, i.created_notice_at
      FROM unnest(CAST(:seqs AS bigint[])) AS taken (seq)
     CROSS JOIN LATERAL (
        SELECT seq, tenant, customer_id, amount, paid, due_date, payable_on, late_from, status, method, recurrence_id,
               notify, hold_until, known_on
          FROM charges WHERE seq = taken.seq OFFSET 0) c
      JOIN billing_tenants t ON t.id = c.tenant
     CROSS JOIN LATERAL (
        SELECT phone, channels, active, hold_until, calendar_id, rule_id
          FROM customers WHERE tenant = c.tenant AND id = c.customer_id OFFSET 0) k
      LEFT JOIN kin p ON p.tenant = c.tenant AND p.customer_id = c.customer_id
     CROSS JOIN LATERAL (
        SELECT array_agg(step || '.' || n) FILTER (
                   WHERE due_date = c.due_date
                     AND (reason IS DISTINCT FROM 'edited' OR state NOT IN ('cancelled', 'queued'))) AS decided,
               max(not_before) FILTER (
                   WHERE kind = 'cobranca_criada' AND state IN ('planned', 'queued')) AS created_notice_at
          FROM intents WHERE charge_seq = c.seq) i),
-- When a message that is decided now can go: today, or after closing time, or on a closed day, on the next open one.
days AS MATERIALIZED (
    SELECT f.calendar_id, (f.day).send_on, (f.day).opens, (f.day).closes
      FROM (SELECT c.calendar_id, CASE WHEN d.send_on = :today AND d.closes <= :clock THEN e ELSE d END AS day
              FROM (SELECT DISTINCT calendar_id FROM due) c
              JOIN send_days d ON d.calendar_id = c.calendar_id AND d.day = :today
              LEFT JOIN send_days e ON e.calendar_id = c.calendar_id AND e.day = CAST(:today AS date) + 1) f),
uncovered AS MATERIALIZED (
    SELECT min(d.calendar_id) AS calendar_id FROM due d LEFT JOIN days y USING (calendar_id) WHERE y.send_on IS NULL),
steps AS MATERIALIZED (
    SELECT d.seq, s.step, o.n, s.ord, s.kind, s.channel, s.text, s.at, s.valid_days, s.effective_on, s.condition,
           CASE WHEN s.kind = 'atraso' THEN greatest(d.payable_on + s.offset_days, d.late_from)
                WHEN s.offset_days < 0 THEN d.due_date + s.offset_days
                ELSE d.payable_on END + coalesce(s.every_days, 0) * o.n AS step_on
      FROM due d
      JOIN rule_steps s ON s.rule_id = d.rule_id AND s.trigger = 'due'
     CROSS JOIN generate_series(0, s.every_max) AS o (n)
     WHERE s.step || '.' || o.n <> ALL (d.decided)),
judged AS (
    SELECT s.*, d.tenant, d.customer_id, d.person, d.due_date, d.spread_s, y.send_on, y.closes,
           greatest(CASE WHEN s.at < y.closes THEN greatest(s.at, y.opens) ELSE y.opens END,
                    CASE WHEN y.send_on = :today THEN CAST(:clock AS time) END) AS goes_at,
           CASE WHEN d.status NOT IN ('open', 'overdue') THEN 'closed'
                WHEN s.step_on < d.known_on THEN 'before_import'
                WHEN s.step_on < s.effective_on THEN 'before_rule'
                WHEN CAST(s.condition ->> 'min_amount' AS numeric) > d.left_to_pay
                  OR CAST(s.condition ->> 'max_amount' AS numeric) < d.left_to_pay
                  OR NOT s.condition -> 'method' ? d.method
                  OR CAST(s.condition ->> 'automatic' AS boolean) <> d.automatic THEN 'condition'
                WHEN NOT d.notify THEN 'muted'
                WHEN NOT d.active THEN 'customer_inactive'
                WHEN d.is_tenant_inactive THEN 'tenant_inactive'
                WHEN greatest(d.hold_until, d.customer_hold_until) > s.step_on THEN 'on_hold'
                WHEN s.channel <> ALL (d.channels) THEN 'email_only'
                WHEN d.has_no_phone THEN 'no_phone'
                WHEN s.step_on + s.valid_days <= y.send_on THEN 'stale' END AS reason
      FROM steps s JOIN due d USING (seq) JOIN days y USING (calendar_id)
     WHERE s.step_on <= :today),
ranked AS MATERIALIZED (
    SELECT j.*,
           (j.send_on + j.goes_at) AT TIME ZONE :tz + make_interval(secs => (hashint8(j.seq) & 2147483647)
               % greatest(1, least(j.spread_s, CAST(extract(epoch FROM j.closes - j.goes_at) AS int)))) AS not_before,
           row_number() OVER (PARTITION BY j.seq, j.reason IS NULL ORDER BY j.step_on DESC, j.ord DESC) AS rank
      FROM judged j),
fresh AS MATERIALIZED (
    SELECT r.*, d.consolidate, d.daily_cap, d.overdue_gap_days, d.created_notice_at
      FROM ranked r JOIN due d USING (seq) WHERE r.reason IS NULL AND r.rank = 1),
recipients AS MATERIALIZED (
    SELECT r.*, coalesce(p.customer_id, r.person) AS customer_id
      FROM (SELECT DISTINCT tenant, person, send_on, overdue_gap_days FROM fresh) r
      LEFT JOIN kin p ON p.tenant = r.tenant AND p.person = r.person),
-- What these people get already, and have got; what was withdrawn from a queue they have not.
contacts AS MATERIALIZED (
    SELECT r.person, r.send_on, i.*
      FROM recipients r
     CROSS JOIN LATERAL (
        SELECT charge_seq, step, due_date, n, tenant, customer_id, channel, kind, planned_on, state, leader,
               greatest(planned_on, CASE WHEN state = 'queued' THEN CAST(queued_at AT TIME ZONE :tz AS date) END) AS goes_on
          FROM intents
         WHERE tenant = r.tenant AND customer_id = r.customer_id
           AND state IN ('planned', 'merged', 'queued') AND (state <> 'queued' OR reason IS NULL)
           AND planned_on >= :today - greatest(r.overdue_gap_days, 31) AND kind <> 'pagamento' OFFSET 0) i),
-- Of those, what can still be changed. A row that the outbox has locked is on its way.
waiting AS MATERIALIZED (
    SELECT c.person, c.send_on, i.*
      FROM contacts c
     CROSS JOIN LATERAL (
        SELECT charge_seq, step, due_date, n, id, tenant, customer_id, channel, kind, planned_on, state, leader
          FROM intents
         WHERE charge_seq = c.charge_seq AND step = c.step AND due_date = c.due_date AND n = c.n
           AND state IN ('planned', 'merged') AND kind <> 'cobranca_criada' AND planned_on <= c.send_on
         OFFSET 0 FOR UPDATE SKIP LOCKED) i),
movable AS MATERIALIZED (
    SELECT w.* FROM waiting w
     WHERE w.state = 'planned' OR EXISTS (
        SELECT FROM waiting l WHERE l.state = 'planned' AND l.charge_seq = w.leader
           AND l.planned_on = w.planned_on AND l.channel = w.channel)),
gone AS MATERIALIZED (
    SELECT c.tenant, c.person, count(*) FILTER (WHERE c.goes_on = c.send_on) AS that_day,
           max(c.goes_on) FILTER (WHERE c.kind = 'atraso') AS overdue_on
      FROM contacts c
     WHERE c.state <> 'merged' AND NOT EXISTS (
        SELECT FROM movable m
         WHERE (m.charge_seq, m.step, m.due_date, m.n) = (c.charge_seq, c.step, c.due_date, c.n))
     GROUP BY c.tenant, c.person),
able AS MATERIALIZED (
    SELECT f.*, f.daily_cap - coalesce(g.that_day, 0) AS slots
      FROM fresh f LEFT JOIN gone g USING (tenant, person)
     WHERE NOT (f.kind = 'atraso'
           AND coalesce(g.overdue_on > f.send_on - f.overdue_gap_days, false))
       AND NOT (f.kind = 'lembrete'
           AND coalesce(f.created_notice_at + interval '24 hours' > f.not_before, false))),
pool AS (
    SELECT true AS is_new, seq, step, due_date, n, tenant, person, customer_id, channel, kind FROM able
     UNION ALL
    SELECT false, charge_seq, step, due_date, n, tenant, person, customer_id, channel, kind FROM movable m
     WHERE NOT EXISTS (SELECT FROM able a WHERE a.seq = m.charge_seq)),
placed AS MATERIALIZED (
    SELECT p.is_new, p.seq, p.step, p.due_date, p.n, row_number() OVER message AS place,
           first_value(p.seq) OVER message AS leader, first_value(p.customer_id) OVER message AS recipient,
           count(*) OVER (PARTITION BY p.tenant, p.person, p.channel) AS size,
           row_number() OVER (
               PARTITION BY p.tenant, p.person
               ORDER BY p.is_new, (p.kind = 'atraso') DESC, p.due_date, p.seq, p.n DESC, p.step) AS turn
      FROM pool p
    WINDOW message AS (
        PARTITION BY p.tenant, p.person, p.channel
        ORDER BY (p.kind = 'atraso') DESC, p.due_date, p.seq, p.n DESC, p.step)),
chosen AS MATERIALIZED (
    SELECT a.seq, CASE WHEN a.consolidate AND p.place > 1 THEN 'merged' ELSE 'planned' END AS state,
           CASE WHEN a.consolidate AND p.size > 1 THEN p.leader END AS leader,
           CASE WHEN a.consolidate THEN p.recipient ELSE a.customer_id END AS recipient
      FROM able a JOIN placed p ON p.is_new AND p.seq = a.seq
     WHERE CASE WHEN a.consolidate
                THEN a.slots > 0
                  OR EXISTS (SELECT FROM movable m WHERE m.tenant = a.tenant AND m.person = a.person)
                ELSE p.turn <= a.slots END),
decided AS (
    INSERT INTO intents AS i (charge_seq, step, due_date, n, id, tenant, customer_id, kind, channel, text, planned_on,
                              not_before, valid_until, state, reason, leader, decided_at)
    SELECT r.seq, r.step, r.due_date, r.n,
           'c' || r.seq || '.' || r.step || '.' || to_char(r.due_date, 'YYMMDD')
               || CASE WHEN r.n > 0 THEN '.' || r.n ELSE '' END,
           r.tenant, coalesce(c.recipient, r.customer_id), r.kind, r.channel, r.text,
           CASE WHEN c.state IS NULL THEN :today ELSE r.send_on END,
           CASE WHEN c.state IS NOT NULL THEN r.not_before END,
           CASE WHEN c.state IS NOT NULL THEN CAST(r.step_on + r.valid_days AS timestamp) AT TIME ZONE :tz END,
           coalesce(c.state, 'skipped'),
           CASE WHEN c.state = 'planned' THEN NULL
                WHEN c.state = 'merged' THEN 'merged'
                ELSE coalesce(r.reason, CASE WHEN r.rank > 1 THEN 'superseded' ELSE 'capped' END) END,
           c.leader, :now
      FROM ranked r LEFT JOIN chosen c ON c.seq = r.seq AND r.reason IS NULL AND r.rank = 1
     WHERE (SELECT calendar_id FROM uncovered) IS NULL
    -- Its due date was moved away, and back. Redis first says whether a message that was queued has gone after all.
    ON CONFLICT (charge_seq, step, due_date, n) DO UPDATE
       SET rev = i.rev + 1, id = excluded.id || '~' || i.rev + 1, customer_id = excluded.customer_id,
           kind = excluded.kind, channel = excluded.channel, text = excluded.text, planned_on = excluded.planned_on,
           not_before = CASE WHEN i.state = 'queued' AND excluded.not_before IS NOT NULL
                             THEN greatest(excluded.not_before, CAST(:now AS timestamptz) + interval '1 minute')
                             ELSE excluded.not_before END,
           valid_until = excluded.valid_until, state = excluded.state,
           reason = excluded.reason, leader = excluded.leader, decided_at = excluded.decided_at
     WHERE i.state IN ('cancelled', 'queued') AND i.reason = 'edited'
    RETURNING i.state),
changed AS (
    UPDATE intents i
       SET state = CASE WHEN a.seq IS NOT NULL THEN 'skipped' WHEN p.place > 1 THEN 'merged' ELSE 'planned' END,
           reason = CASE WHEN a.seq IS NOT NULL THEN 'superseded' WHEN p.place > 1 THEN 'merged' END,
           leader = CASE WHEN p.size > 1 THEN p.leader END, customer_id = coalesce(p.recipient, i.customer_id),
           planned_on = CASE WHEN a.seq IS NOT NULL THEN :today ELSE m.send_on END,
           rev = i.rev + CAST(f.id IS NOT NULL AS int),
           id = CASE WHEN f.id IS NULL THEN i.id ELSE split_part(i.id, '~', 1) || '~' || i.rev + 1 END
      FROM movable m
      JOIN billing_tenants t ON t.id = m.tenant
      LEFT JOIN chosen a ON a.seq = m.charge_seq
      LEFT JOIN placed p ON NOT p.is_new AND p.seq = m.charge_seq AND p.step = m.step AND p.due_date = m.due_date
       AND p.n = m.n
      LEFT JOIN LATERAL (SELECT id FROM cancel_flags WHERE id = m.id OFFSET 0) f
        ON m.state = 'merged' AND a.seq IS NULL AND p.place = 1
     WHERE i.charge_seq = ANY(ARRAY(SELECT charge_seq FROM movable))
       AND (i.charge_seq, i.step, i.due_date, i.n) = (m.charge_seq, m.step, m.due_date, m.n)
       AND (a.seq IS NOT NULL OR (t.consolidate AND p.seq IS NOT NULL))
       AND (SELECT calendar_id FROM uncovered) IS NULL
    RETURNING i.state, i.id, m.state AS was, i.not_before),
-- A scheduler may have pushed it, and died before its commit (withdrawals.py).
flagged AS (
    INSERT INTO cancel_flags (id, at)
    SELECT id, :now FROM changed WHERE was = 'planned' AND state <> 'planned' AND not_before <= :now
    ON CONFLICT DO NOTHING),
moved AS (
    UPDATE agenda g SET next_on = x.next_on
      FROM (SELECT d.seq, coalesce(min(s.step_on) FILTER (WHERE s.step_on > :today), 'infinity') AS next_on
              FROM due d LEFT JOIN steps s USING (seq) GROUP BY d.seq) x
     WHERE g.charge_seq = x.seq AND g.charge_seq = ANY(CAST(:seqs AS bigint[]))
       AND (SELECT calendar_id FROM uncovered) IS NULL
    RETURNING g.charge_seq)
SELECT (SELECT count(*) FROM moved) AS charges,
       (SELECT count(*) FROM decided WHERE state = 'planned') AS planned,
       (SELECT count(*) FROM decided WHERE state = 'skipped') AS skipped,
       (SELECT count(*) FROM decided WHERE state = 'merged') + (SELECT count(*) FROM changed WHERE state = 'merged')
           AS merged,
       (SELECT calendar_id FROM uncovered) AS uncovered
