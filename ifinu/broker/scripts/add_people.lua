#!lua flags=allow-oom
-- Add members to sets that Redis may have lost. Until that has ended, no number sends.
-- KEYS: since; then sets
-- ARGV: ttl of the sets (ms), for how long from now no number sends at least (ms; 0: that does not matter); then the member
--       of each set
local hold = tonumber(ARGV[2])
if hold > 0 then
  local time = redis.call('TIME')
  local ends = time[1] * 1000 + math.floor(time[2] / 1000) + hold
  if ends > (tonumber(redis.call('GET', KEYS[1])) or 0) then
    redis.call('SET', KEYS[1], string.format('%.0f', ends))
  end
end
for i = 2, #KEYS do
  redis.call('SADD', KEYS[i], ARGV[i + 1])
  redis.call('PEXPIRE', KEYS[i], ARGV[1])
end
