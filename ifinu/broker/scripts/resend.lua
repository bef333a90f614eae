#!lua flags=allow-oom
-- Allow a second send of a message that may have been sent and that the gateway does not have; never a third.
-- KEYS: claim, events, opt-outs of the tenant, opt-outs of all tenants
-- ARGV: tag, id, data of the event `resending`, the phone's pseudonym
-- Returns 'go', 'again' (it was sent again already), 'cancelled', 'opted_out', or 'lost' (the claim is another message's
-- by now)
local was = redis.call('HMGET', KEYS[1], 'state', 'tag', 'resent', 'cancelled')
if was[2] ~= ARGV[1] then
  return 'lost'
elseif was[1] == 'sending' then
  return 'go' -- it asks again, since the answer was lost
elseif was[1] ~= 'unknown' then
  return 'lost'
elseif was[4] then
  return 'cancelled'
elseif was[3] then
  return 'again'
end
for _, key in ipairs({KEYS[3], KEYS[4]}) do
  local out = redis.call('HGET', key, ARGV[4])
  if out and cjson.decode(out)['confirmation'] ~= ARGV[2] then
    return 'opted_out'
  end
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'state', 'sending', 'resent', '1', 'started', now)
redis.call('XADD', KEYS[2], '*', 'event', 'resending', 'id', ARGV[2], 'data', ARGV[3])
return 'go'
