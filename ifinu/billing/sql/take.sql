-- Takes up to :chunk charges whose day has come, with the people they are about, for this transaction.
--
-- A person is a phone of a tenant, and may be several customers (`shared`); a customer without a phone is one too. The
-- person's first customer is locked, then the others. Whatever somebody else has locked is left for the next pass: a
-- charge that is being paid or edited, a customer whom another planner or the outbox has. So two planners never decide
-- about one person at once, and none waits. The decision (plan.sql) is another statement: only that sees what those who
-- had the locks before have committed.
--
-- OFFSET 0 keeps the planner of PostgreSQL from reading whole tables for a chunk.
WITH picked AS MATERIALIZED (
    SELECT a.charge_seq
      FROM unnest(CAST(:tenants AS text[])) AS w (tenant)
     CROSS JOIN LATERAL (
        SELECT g.charge_seq FROM agenda g
         WHERE g.tenant = w.tenant AND g.next_on <= :today
           AND (CAST(:only AS bigint) IS NULL OR g.charge_seq = CAST(:only AS bigint))
         ORDER BY g.next_on, g.charge_seq LIMIT :share FOR UPDATE SKIP LOCKED) a
     LIMIT :chunk),
due AS MATERIALIZED (
    SELECT c.seq, c.tenant, c.customer_id, k.phone
      FROM picked
     CROSS JOIN LATERAL (
        SELECT seq, tenant, customer_id FROM charges WHERE seq = picked.charge_seq OFFSET 0 FOR SHARE SKIP LOCKED) c
     CROSS JOIN LATERAL (SELECT phone FROM customers WHERE tenant = c.tenant AND id = c.customer_id OFFSET 0) k),
shared AS MATERIALIZED (
    SELECT k.tenant, k.id, k.phone, min(k.id) OVER phones AS person, count(*) OVER phones AS size
      FROM customers k
     WHERE k.phone = ANY(ARRAY(SELECT DISTINCT phone FROM due WHERE phone IS NOT NULL))
       AND k.tenant = ANY(CAST(:tenants AS text[]))
    WINDOW phones AS (PARTITION BY k.tenant, k.phone)),
people AS MATERIALIZED (
    SELECT DISTINCT d.tenant, d.phone, coalesce(s.person, d.customer_id) AS person
      FROM due d LEFT JOIN shared s ON s.size > 1 AND s.tenant = d.tenant AND s.id = d.customer_id),
mine AS MATERIALIZED (
    SELECT p.tenant, p.phone, p.person
      FROM people p
     CROSS JOIN LATERAL (
        SELECT FROM customers
         WHERE tenant = p.tenant AND id = p.person AND phone IS NOT DISTINCT FROM p.phone
        OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) k),
others AS MATERIALIZED (
    SELECT s.tenant, s.person, s.id, l.is_locked IS NOT NULL AS is_mine
      FROM mine m
      JOIN shared s ON s.tenant = m.tenant AND s.person = m.person AND s.size > 1
      LEFT JOIN LATERAL (
        SELECT true AS is_locked FROM customers
         WHERE tenant = s.tenant AND id = s.id AND phone IS NOT DISTINCT FROM s.phone  -- not by the index of phones
        OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) l ON true),
whole AS MATERIALIZED (
    SELECT m.tenant, m.person FROM mine m
     WHERE NOT EXISTS (SELECT FROM others o WHERE o.tenant = m.tenant AND o.person = m.person AND NOT o.is_mine)),
kin AS MATERIALIZED (SELECT o.tenant, o.person, o.id FROM others o JOIN whole USING (tenant, person))
SELECT (SELECT count(*) FROM picked) AS picked,
       ARRAY(SELECT d.seq FROM due d
               LEFT JOIN shared s ON s.size > 1 AND s.tenant = d.tenant AND s.id = d.customer_id
               JOIN whole w ON w.tenant = d.tenant AND w.person = coalesce(s.person, d.customer_id)) AS seqs,
       ARRAY(SELECT tenant FROM kin ORDER BY tenant, id) AS kin_tenants,
       ARRAY(SELECT id FROM kin ORDER BY tenant, id) AS kin_ids,
       ARRAY(SELECT person FROM kin ORDER BY tenant, id) AS kin_people
