-- Takes up to :chunk charges whose day has come, with their customers, for this transaction.
--
-- Whatever somebody else has locked is left for the next pass: a charge that is being paid or edited, a customer whom
-- another planner or the outbox has. So two planners never decide about one customer at once, and none waits. The
-- decision (plan.sql) is another statement: only that sees what those who had the locks before have committed.
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
     LIMIT :chunk)
SELECT (SELECT count(*) FROM picked) AS picked,
       ARRAY(SELECT c.seq
               FROM picked
              CROSS JOIN LATERAL (
                 SELECT seq, tenant, customer_id FROM charges WHERE seq = picked.charge_seq
                 OFFSET 0 FOR SHARE SKIP LOCKED) c
              CROSS JOIN LATERAL (
                 SELECT FROM customers WHERE tenant = c.tenant AND id = c.customer_id
                 OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) k) AS seqs
