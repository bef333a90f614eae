#!lua flags=allow-oom
-- End a message: acknowledge it, record the outcome in its claim and write the event.
-- KEYS: in flight, deadlines, claim, unknown, events, ready, senders (absent if nothing was sent to the phone)
-- ARGV: tag, state, the gateway's message id, ttl (ms), id, event, its data, the phone's pseudonym, tenant, ttl of the
--       senders (ms) (these three are '' without senders), number whose pace it kept ('' for none), a random number from 0
--       to 1 for it (these two may be absent), then for each message that follows once this one was sent: its id, its
--       bytes
-- Returns 1, or 0 if the message was not in flight any more (`sent` is recorded all the same); 'freed' as in `ack`.
redis.call('ZREM', KEYS[2], ARGV[1])
local held = redis.call('HDEL', KEYS[1], ARGV[1])
local was = redis.call('HMGET', KEYS[3], 'state', 'tag', 'cancelled', 'codes_off', 'person', 'counted')
local freed
local follow -- puts a message where it is served next
if ARGV[11] and ARGV[11] ~= '' then
  -- uses: numbers
  local queue = string.sub(KEYS[1], 1, -8)
  local looked_up = was[1] == 'unknown' and was[2] == ARGV[1] -- an earlier send was found: none took place now
  local went_out = ARGV[2] == 'sent' and was[1] ~= 'sent' and not looked_up
  local at
  at, freed = free(queue, ARGV[11], ARGV[1], went_out, ARGV[12])
  follow = at and function(message)
    local tenant = line(message)
    aside(queue, ARGV[11], tenant, message, at, true)
    freed = at - now < SOON
  end
end
local function answer()
  return held == 1 and freed and 'freed' or held
end
local anothers = was[1] == 'sent' or ((was[1] == 'sending' or was[1] == 'unknown') and was[2] ~= ARGV[1])
if ARGV[2] ~= 'sent' and (held == 0 or anothers) then
  return answer() -- `sent` counts from any worker; that it was not sent, only from the one that holds the message
end
if was[1] ~= ARGV[2] then -- recorded twice, it is one event
  redis.call('XADD', KEYS[5], '*', 'event', ARGV[6], 'id', ARGV[5], 'data', ARGV[7])
  if ARGV[2] == 'sent' and not (was[3] or was[4]) then
    local codes = {}
    for i = #ARGV - 1, 13, -2 do -- the first of them is served next
      if follow then
        follow(ARGV[i + 1])
      else
        redis.call('RPUSH', KEYS[6], ARGV[i + 1])
      end
      codes[#codes + 1] = ARGV[i]
    end
    if #codes > 0 then
      redis.call('HSET', KEYS[3], 'codes', cjson.encode(codes))
    end
  end
end
if was[5] and ARGV[2] == 'sent' then -- the next message to this person keeps its distance
  local time = redis.call('TIME')
  redis.call('SET', was[5] .. ':ultima', time[1] * 1000 + math.floor(time[2] / 1000), 'PX', 60000)
elseif was[6] and was[6] ~= '' then -- it does not count in this person's day
  redis.call('SREM', was[6], ARGV[5])
end
-- Without its tag, a worker that is sending it again cannot overwrite this outcome.
redis.call('HSET', KEYS[3], 'state', ARGV[2], 'key_id', ARGV[3], 'tag', '')
redis.call('PEXPIRE', KEYS[3], ARGV[4])
redis.call('ZREM', KEYS[4], ARGV[5])
if KEYS[7] then
  redis.call('HSET', KEYS[7], ARGV[8], ARGV[9])
  redis.call('PEXPIRE', KEYS[7], ARGV[10])
end
return answer()
