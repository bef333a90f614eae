#!lua flags=allow-oom
-- A person wants no messages of a tenant. It takes some hundred bytes, and is heard even when Redis is full.
-- KEYS: opt-outs of the tenant, events, the queue of the confirmation (absent where none is sent)
-- ARGV: pseudonym, masked phone, source, when (epoch ms, or '' for now), data of the event, id of the confirmation
--       ('' for none), the confirmation
-- Returns 1, or 0 when the person was among them already: then nothing changes and nothing is sent.
redis.call('XLEN', KEYS[2]) -- keys of a wrong type fail here, before anything is written
if KEYS[3] then
  redis.call('LLEN', KEYS[3])
end
local at = tonumber(ARGV[4])
if not at then
  local time = redis.call('TIME')
  at = time[1] * 1000 + math.floor(time[2] / 1000)
end
local entry = cjson.encode({at = at, phone = ARGV[2], source = ARGV[3], confirmation = ARGV[6]})
if redis.call('HSETNX', KEYS[1], ARGV[1], entry) == 0 then
  return 0
end
if KEYS[3] then
  redis.call('LPUSH', KEYS[3], ARGV[7])
end
redis.call('XADD', KEYS[2], '*', 'event', 'optout', 'id', '', 'data', ARGV[5])
return 1
