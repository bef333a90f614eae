#!lua flags=allow-oom
-- Claim a notification id before its send.
-- KEYS: claim, in flight
-- ARGV: tag, digest of the content ('' when it is not compared), token of the retry ('' for a first message), ttl (ms)
-- Returns {'go' | 'duplicate' | 'reused', state of the record before, token}
local was = redis.call('HMGET', KEYS[1], 'state', 'digest', 'in_flight', 'tag', 'token')
local state, digest, home, tag, token = was[1], was[2], was[3], was[4], was[5]

if state and state ~= 'dead' then
  if digest ~= '' and ARGV[2] ~= '' and digest ~= ARGV[2] then
    return {'reused', state, token}
  end
  -- Only these go on: the retry that this id waits for, and a message whose holder died or gave it back.
  local expected = state == 'waiting' and token == ARGV[3]
  local orphaned = state == 'sending' and (tag == ARGV[1] or redis.call('HEXISTS', home, tag) == 0)
  if not (expected or orphaned) then
    return {'duplicate', state, token}
  end
else
  token = ARGV[1]
end
redis.call('HSET', KEYS[1], 'state', 'sending', 'digest', ARGV[2], 'in_flight', KEYS[2], 'tag', ARGV[1], 'token', token)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'go', state or '', token}
