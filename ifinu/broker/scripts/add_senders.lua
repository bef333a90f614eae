#!lua flags=allow-oom
-- Add the people that a number wrote to, which Redis may have lost. Those that are there are newer, and stay.
-- KEYS: senders
-- ARGV: ttl (ms); then pseudonyms, each with the tenant that wrote to it last
for i = 2, #ARGV, 2 do
  redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
