#!lua flags=allow-oom
-- Carry out a person's decision on an id that may have been sent.
-- KEYS: claim, unknown, events, dead (absent if it has no dead letter)
-- ARGV: id, new state of the claim (sent | cancelled | waiting: its message is sent when it comes | '': the claim is
--       deleted, and the next message with the id is sent), the gateway's message id, ttl (ms), event, its data, record
--       of the dead letter
-- Returns '' if it was done. Else nothing has changed, and it returns the present state (`none` without a claim), or why
-- it cannot be sent again: cancelled, looked_up (a worker looks it up at this moment).
local was = redis.call('HMGET', KEYS[1], 'state', 'tag', 'in_flight', 'cancelled')
local state = was[1] or (redis.call('ZSCORE', KEYS[2], ARGV[1]) and 'unknown') or 'none' -- a claim expires after days
if state ~= 'unknown' then
  return state
end
local becomes, tag = ARGV[2], was[2]
if becomes == 'waiting' or becomes == '' then
  if was[4] then
    return 'cancelled'
  elseif tag and tag ~= '' and redis.call('HEXISTS', was[3], tag) == 1 then
    return 'looked_up'
  end
end
redis.call('XADD', KEYS[3], '*', 'event', ARGV[5], 'id', ARGV[1], 'data', ARGV[6])
redis.call('ZREM', KEYS[2], ARGV[1])
if becomes == '' or (becomes == 'waiting' and not was[1]) then
  redis.call('DEL', KEYS[1])
  return ''
elseif becomes == 'waiting' then
  -- Two sends in doubt are enough: after this one a worker does not send it again automatically.
  redis.call('HSET', KEYS[1], 'state', becomes, 'resent', '1')
else
  -- Without its tag, a worker that looks it up at this moment cannot put it in doubt again.
  redis.call('HSET', KEYS[1], 'state', becomes, 'tag', '', 'key_id', ARGV[3])
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if KEYS[4] then
  redis.call('LREM', KEYS[4], -1, ARGV[7])
end
return ''
