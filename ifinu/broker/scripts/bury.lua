#!lua flags=allow-oom
-- Move a message in flight to the dead letters. Only the process that still holds it can, so it happens once.
-- KEYS: in flight, deadlines, dead, events, unknown, claim (absent if the notification's id could not be read)
-- ARGV: tag, record, state that the claim ends in (dead | unknown), id, event, its data, token that the message carries
--       ('' for a first message), number whose pace it kept ('' or absent for none), a random number from 0 to 1 for it
-- Returns 1, or 0 if it was not in flight any more; 'freed' as in `ack`.
redis.call('LLEN', KEYS[3]) -- a key of a wrong type fails here, before the message has left
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('LPUSH', KEYS[3], ARGV[2])
local event = 'dead' -- without a claim nothing was sent
local was_sending = false
if KEYS[6] then
  local was = redis.call('HMGET', KEYS[6], 'state', 'tag', 'resent', 'token', 'in_flight', 'since', 'counted')
  -- A poison or revoked message ends before it has claimed: then its token shows that the claim waits for it.
  was_sending = was[1] == 'sending' and was[2] == ARGV[1]
  local expected = was[4] == ARGV[7] and (was[1] == 'waiting' or was[1] == 'unknown')
  if was[2] == ARGV[1] or expected then
    local state = ARGV[3]
    event = ARGV[5]
    -- This send is known not to have taken place; the one before it stays in doubt.
    if state == 'dead' and (was[3] or (was[1] == 'unknown' and expected)) then
      state, event = 'unknown', 'held'
    end
    redis.call('HSET', KEYS[6], 'state', state, 'tag', '', 'letter', redis.sha1hex(ARGV[2]))
    if state == 'unknown' then
      redis.call('PERSIST', KEYS[6]) -- until a person has decided
      local time = redis.call('TIME')
      redis.call('ZADD', KEYS[5], 'NX', time[1] * 1000, ARGV[4])
    else
      redis.call('PEXPIRE', KEYS[6], 604800000, 'NX') -- an unknown claim did not expire
      redis.call('ZREM', KEYS[5], ARGV[4])
      if was[7] and was[7] ~= '' then -- it does not count in this person's day
        redis.call('SREM', was[7], ARGV[4])
      end
    end
  elseif was[1] == 'sending' and redis.call('HEXISTS', was[5], was[2]) == 0 then
    -- Its worker died while it sent it. The claim keeps its tag, so that the next message with the id looks it up.
    event = 'held'
    redis.call('HSET', KEYS[6], 'state', 'unknown')
    redis.call('PERSIST', KEYS[6]) -- until a person has decided
    redis.call('ZADD', KEYS[5], 'NX', was[6], ARGV[4])
  elseif was[1] and was[1] ~= 'dead' then
    event = 'duplicate' -- a second message with this id: the claim belongs to the first
  end
end
local freed
if ARGV[8] and ARGV[8] ~= '' then
  -- uses: numbers
  local went_out = was_sending and ARGV[3] == 'unknown'
  freed = select(2, free(string.sub(KEYS[1], 1, -8), ARGV[8], ARGV[1], went_out, ARGV[9]))
end
redis.call('XADD', KEYS[4], '*', 'event', event, 'id', ARGV[4], 'data', ARGV[6])
return freed and 'freed' or 1
