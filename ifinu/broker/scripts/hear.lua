#!lua flags=allow-oom
-- Count a person who wrote to a registered number: once a day, however often a webhook comes.
-- KEYS: number
-- ARGV: the person's pseudonym, ttl of a day's people (ms)
-- Returns 1, or 0 if the number is not registered.
local of = redis.call('HMGET', KEYS[1], 'par', 'fuso')
if not of[1] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local day = math.floor((now + (tonumber(of[2] or '') or 0)) / 86400000)
local people = string.format('%s:respostas:%d', KEYS[1], day)
redis.call('PFADD', people, ARGV[1])
redis.call('PEXPIRE', people, ARGV[2])
redis.call('HSETNX', KEYS[1], 'ouve', string.format('%.0f', now))
return 1
