-- The pace of numbers, for the scripts that take, end or move messages. The keys are those in keys.py.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local HOUR, DAY, BRASILIA = 3600000, 86400000, -10800000
local LONGEST = 200 -- characters of a tenant or an instance, as in notification.py
local SOON = 25 -- ms
local since -- no number sends before it

local function text(value)
  return string.format('%.0f', value)
end

-- What a number has sent, or has in flight, on its local day and in its local hour. `n`: fuso, dia, hoje, hora, nesta_hora
local function used(n)
  local hour = math.floor((now + (tonumber(n[1]) or BRASILIA)) / HOUR)
  local today = tonumber(n[2]) == math.floor(hour / 24) and tonumber(n[3]) or 0
  return hour, today, tonumber(n[4]) == hour and tonumber(n[5]) or 0
end

-- When a number may send next: `now` if it may send now. A number without a pace may not.
local function opens(number, lease)
  local key = 'ifinu:numero:' .. number
  local n = redis.call('HMGET', key, 'fuso', 'dia', 'hoje', 'hora', 'nesta_hora', 'par', 'livre', 'presa', 'teto', 'max')
  local parallel, most = tonumber(n[6]), tonumber(n[9])
  if not parallel then
    return now + lease
  end
  since = since or tonumber(redis.call('GET', 'ifinu:numeros:desde')) or 0
  local at = math.max(now, tonumber(n[7]) or 0, tonumber(n[8]) or 0, since)
  if most then
    local hour, today, this_hour = used(n)
    local zone = tonumber(n[1]) or BRASILIA
    if today >= most then
      at = math.max(at, (math.floor(hour / 24) + 1) * DAY - zone)
    elseif this_hour >= math.ceil(most / 8) then
      at = math.max(at, (hour + 1) * HOUR - zone)
    end
  end
  if at == now and redis.call('SCARD', key .. ':voo') >= parallel then
    for _, member in ipairs(redis.call('SMEMBERS', key .. ':voo')) do
      local queue, tag = string.match(member, '^(.*) (%S+)$')
      if redis.call('HEXISTS', queue .. ':em_voo', tag) == 0 then
        redis.call('SREM', key .. ':voo', member)
      end
    end
    if redis.call('SCARD', key .. ':voo') >= parallel then
      -- The end of a send sets its turn. Without a gap the next message would wait until an idle worker looks again.
      at = now + ((tonumber(n[10]) or 0) < 1000 and SOON or lease)
    end
  end
  return at
end

-- Record that a number has a message in flight.
local function occupy(queue, number, tag)
  local key = 'ifinu:numero:' .. number
  redis.call('SADD', key .. ':voo', queue .. ' ' .. tag)
  local hour, today, this_hour = used(redis.call('HMGET', key, 'fuso', 'dia', 'hoje', 'hora', 'nesta_hora'))
  redis.call('HSET', key, 'dia', text(math.floor(hour / 24)), 'hoje', text(today + 1), 'hora', text(hour),
    'nesta_hora', text(this_hour + 1))
  redis.call('HSET', queue .. ':em_voo:numeros', tag, text(hour) .. ' ' .. number)
end

-- Set when a number is looked at next, in each queue where something waits for it. Returns whether that has changed.
local function turn(queue, number, at)
  local changed = 0
  for _, each in ipairs({'ifinu:fila:urgente', 'ifinu:fila:whatsapp', 'ifinu:fila:baixa', queue}) do
    changed = changed + redis.call('ZADD', each .. ':turnos', 'XX', 'CH', at, number)
  end
  return changed > 0
end

-- Free the place of a message that is not in flight any more. `went_out`: it was sent, or may have been; then the number
-- pauses, for a gap that `u` (0 to 1) chooses. Else it does not count.
-- Returns when the number may send next by this, or nil if it is not registered any more; and whether that is soon, and
-- messages wait for it.
local function free(queue, number, tag, went_out, u)
  local key = 'ifinu:numero:' .. number
  local was_there = redis.call('SREM', key .. ':voo', queue .. ' ' .. tag) == 1
  local taken = redis.call('HGET', queue .. ':em_voo:numeros', tag)
  redis.call('HDEL', queue .. ':em_voo:numeros', tag)
  local n = redis.call('HMGET', key, 'par', 'min', 'max', 'fator', 'livre', 'dia', 'hora')
  if not n[1] then
    return nil
  end
  local at = math.max(now, tonumber(n[5]) or 0)
  if went_out then
    local least, most = tonumber(n[2]) or 0, tonumber(n[3]) or 0
    local brake = math.min(1, math.max(0.1, tonumber(n[4]) or 1))
    at = math.max(at, now + math.ceil((least + (most - least) * (tonumber(u) or 0.5)) / brake))
    redis.call('HSET', key, 'livre', text(at))
  elseif was_there and taken then
    local hour = tonumber(string.match(taken, '^%-?%d+'))
    if tonumber(n[7]) == hour then
      redis.call('HINCRBY', key, 'nesta_hora', -1)
    end
    if tonumber(n[6]) == math.floor(hour / 24) then
      redis.call('HINCRBY', key, 'hoje', -1)
    end
  end
  return at, turn(queue, number, at) and at - now < SOON
end

-- Put a message into a lane: at its end, or (`first`) where it is served next. The number is looked at at `at` if nothing
-- waited for it. The list itself is written last, so that a key of a wrong type fails before the message is in two places.
local function aside(queue, number, tenant, message, at, first)
  local lane = queue .. ':espera:' .. number .. ':' .. tenant
  if redis.call('EXISTS', lane) == 0 then
    local weight = tonumber(redis.call('HGET', 'ifinu:inquilino:' .. tenant, 'peso')) or 1
    for _ = 1, math.min(100, weight) do
      redis.call('LPUSH', 'ifinu:numero:' .. number .. ':roda:' .. queue, tenant)
    end
  end
  redis.call('ZADD', queue .. ':turnos', 'NX', at, number)
  redis.call('INCR', queue .. ':na_espera')
  if first then
    redis.call('RPUSH', lane, message)
  else
    redis.call('LPUSH', lane, message)
  end
end

-- Forget a lane that is empty, and the number's turn where that was its last one.
local function forget_empty(queue, number, tenant)
  local ring = 'ifinu:numero:' .. number .. ':roda:' .. queue
  if redis.call('EXISTS', queue .. ':espera:' .. number .. ':' .. tenant) == 0 then
    redis.call('LREM', ring, 0, tenant)
  end
  if redis.call('EXISTS', ring) == 0 then
    redis.call('ZREM', queue .. ':turnos', number)
  end
end

-- The value of a key in a JSON text, found by its spelling: a producer's text may be of any size, depth and correctness.
-- A raw quote stands in no string, so what looks like the key and is followed by a colon is the key.
local function field(message, name)
  local at = 1
  while true do
    local _, last = string.find(message, '"' .. name .. '"', at, true)
    if not last then
      return ''
    end
    local _, opened = string.find(message, '^%s*:%s*"', last + 1)
    if opened then
      local closes = opened + 1
      while true do
        closes = string.find(message, '["\\]', closes)
        if not closes or closes - opened > LONGEST * 6 then
          return ''
        elseif string.byte(message, closes) == 34 then
          break
        end
        closes = closes + 2
      end
      local value = string.sub(message, opened + 1, closes - 1)
      if string.find(value, '\\', 1, true) then
        local is_text, decoded = pcall(cjson.decode, '["' .. value .. '"]')
        value = is_text and decoded[1] or ''
      end
      return #value <= LONGEST and value or ''
    end
    local digits = string.match(message, '^%s*:%s*(%d+)', last + 1)
    if digits and #digits <= LONGEST then
      return digits
    end
    at = last + 1
  end
end

local function trimmed(value)
  return string.match(value, '^%s*(.-)%s*$')
end

-- The tenant of a message, the instance that it names, and the last eight digits of its phone; '' for what it does not say.
local function line(message)
  local tenant, named, phone = string.match(field(message, 'ifinu_linha'), '^([^\t]*)\t([^\t]*)\t(%d*)$')
  if tenant then
    return tenant, named, phone
  end
  return trimmed(field(message, 'usuario_id')), trimmed(field(message, 'instancia')),
    string.sub((string.gsub(field(message, 'telefone'), '%D', '')), -8)
end

-- Return a message in flight to the front of its lane, if it was taken for a number; `went_out` and `u` as for `free`.
-- Returns when the number may send next by this, or nil: then the message has no lane.
local function to_lane(queue, tag, message, went_out, u)
  local taken = redis.call('HGET', queue .. ':em_voo:numeros', tag)
  local number = taken and string.match(taken, '^%-?%d+ (.*)$')
  local at = number and free(queue, number, tag, went_out, u)
  if at then
    local tenant = line(message)
    aside(queue, number, tenant, message, at, true)
  end
  return at
end

-- The one of several numbers that writes to a person: the same as long as it is among them.
local function sticky(names, phone)
  local number, highest = names[1], nil
  for _, name in ipairs(#names > 1 and names or {}) do
    local rank = redis.sha1hex(name .. ' ' .. phone)
    if not highest or rank > highest then
      number, highest = name, rank
    end
  end
  return number
end
