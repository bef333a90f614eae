#!lua flags=allow-oom
-- Write into a claim what the ledger knows of its id, after Redis was restored from a snapshot or lost its data.
-- KEYS: claim, unknown, in flight (of any queue), events
-- ARGV: state (sent | expired | suppressed | cancelled | unknown), id, ttl (ms), the gateway's message id; and for
--       unknown: since (ms), a new token, '1' if it must not be sent again automatically, data of the event `unknown`,
--       start of the last send in doubt (ms), '1' to leave an id that has a claim
-- Returns 1, or 0 if the claim knew as much.
local was = redis.call('HMGET', KEYS[1], 'state', 'token', 'resent')
if ARGV[10] == '1' and was[1] then
  return 0
end
if was[1] == 'sent' or (was[1] == ARGV[1] and (was[1] ~= 'unknown' or ARGV[7] ~= '1' or was[3])) then
  return 0
end
if ARGV[1] ~= 'unknown' then
  redis.call('HSET', KEYS[1], 'state', ARGV[1], 'key_id', ARGV[4], 'tag', '')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  redis.call('ZREM', KEYS[2], ARGV[2])
  return 1
end
if was[1] ~= 'sending' and was[1] ~= 'unknown' then
  -- As if its worker had died during the send: the next message with the id looks it up.
  redis.call('HSET', KEYS[1], 'tag', 'restored', 'in_flight', KEYS[3], 'since', ARGV[5], 'started', ARGV[9])
end
if not was[2] then
  redis.call('HSET', KEYS[1], 'token', ARGV[6])
end
if ARGV[7] == '1' then
  redis.call('HSET', KEYS[1], 'resent', '1')
end
if was[1] == 'sending' then
  redis.call('XADD', KEYS[4], '*', 'event', 'unknown', 'id', ARGV[2], 'data', ARGV[8])
end
redis.call('HSET', KEYS[1], 'state', 'unknown')
redis.call('PERSIST', KEYS[1]) -- if it expired, the id would be sent again
redis.call('ZADD', KEYS[2], 'NX', redis.call('HGET', KEYS[1], 'since'), ARGV[2])
return 1
