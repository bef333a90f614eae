#!lua flags=allow-oom
-- A person decides what became, or is to become, of an id that may have been sent.
-- KEYS: claim, unknown, events, dead (absent where it has no dead letter)
-- ARGV: id, state that the claim ends in (sent | cancelled), or waiting: its message is sent when it comes, or '' where
--       no message shows the claim's token: whatever comes is sent; the gateway's message id, ttl (ms), event, its data,
--       record of the dead letter
-- Returns '' when it is done. Else nothing has changed, and it returns the state by now ('' is told as none), or to send
-- it again: cancelled (it was called off), looked_up (a worker looks it up at this moment).
local was = redis.call('HMGET', KEYS[1], 'state', 'tag', 'in_flight', 'cancelled')
local state = was[1] or (redis.call('ZSCORE', KEYS[2], ARGV[1]) and 'unknown') or 'none' -- a claim lives for days only
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
  -- Two sends in doubt are enough: after this one a worker does not send it once more by itself.
  redis.call('HSET', KEYS[1], 'state', becomes, 'resent', '1')
else
  -- Without its tag, who looks it up at this moment cannot bring the doubt back.
  redis.call('HSET', KEYS[1], 'state', becomes, 'tag', '', 'key_id', ARGV[3])
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if KEYS[4] then
  redis.call('LREM', KEYS[4], -1, ARGV[7])
end
return ''
