"""What Redis does for a fleet in one step each; times are its own, in microseconds since 1970.

A stream id is `term-number`. A term is higher than every one before it, so that Redis itself refuses, by the order of
ids, what a leader deposed long ago still wants to add; numbers count the rounds of all terms.
"""

from typing import Final

__all__ = ["BEAT", "PUBLISH", "RELEASE", "TAKE"]

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

BEAT: Final = (
    _NOW
    + """
-- KEYS: lease, stream, state. ARGV: token, milliseconds of the lease, the highest term this member has seen.
-- Returns the term if the lease is this member's now, '0' if it is another's; the time; the newest id.
local top = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
top = top[1] and top[1][1] or '0-0'
local holder = redis.call('GET', KEYS[1])
local term = '0'
if holder == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    term = redis.call('HGET', KEYS[3], 'term')
end
if not holder or not term then
    local last = math.max(tonumber(redis.call('HGET', KEYS[3], 'term') or '0'), tonumber(ARGV[3]))
    last = math.max(last, tonumber(string.match(top, '^%d+')))
    if last >= 9007199254740991 then
        return redis.error_reply('IDTOOHIGH an entry in the stream leaves no room for the next term')
    end
    term = string.format('%.0f', math.max(now, last + 1))
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    redis.call('HSET', KEYS[3], 'term', term)
end
return {term, string.format('%.0f', now), top}
"""
)

PUBLISH: Final = (
    _NOW
    + """
-- KEYS: lease, stream, state. ARGV: token, milliseconds of the lease, term, the most entries to keep, what this member
-- has seen last: number, time, time of rates; then microseconds after which prices went unseen, seconds between two
-- polls, seconds to the next one, and the rates: '' if the poll failed.
-- Returns 1, or 0 if the lease is not this member's any more.
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('HGET', KEYS[3], 'term') ~= ARGV[3] then
    return 0
end
local function highest(field, seen)
    return math.max(tonumber(redis.call('HGET', KEYS[3], field) or '0'), tonumber(seen))
end
-- Where Redis lost what it had, or its clock went back, the member knows better.
local number = string.format('%.0f', highest('number', ARGV[5]) + 1)
local at = math.max(now, highest('at', ARGV[6]) + 1)
local good = highest('good', ARGV[7])
local gap = 0
local id = ARGV[3] .. '-' .. number
if ARGV[11] ~= '' then
    if good > 0 and at - good > tonumber(ARGV[8]) then gap = at - good end
    redis.call('HSET', KEYS[3], 'good', string.format('%.0f', at), 'id', id)
end
local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '=', ARGV[4], id, 'version', '1', 'at', string.format('%.0f', at),
    'gap', string.format('%.0f', gap), 'every', ARGV[9], 'next', ARGV[10], 'rates', ARGV[11])
if type(added) == 'table' and added.err then
    -- Somebody else's entry has a higher id: the next term will be above it.
    redis.call('DEL', KEYS[1])
    return 0
end
redis.call('HSET', KEYS[3], 'number', number, 'at', string.format('%.0f', at))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
-- What a fleet that has ended leaves behind goes by itself.
redis.call('EXPIRE', KEYS[2], 604800)
redis.call('EXPIRE', KEYS[3], 604800)
return 1
"""
)

RELEASE: Final = """
-- KEYS: lease. ARGV: token.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""

TAKE: Final = (
    _NOW
    + """
-- KEYS: bucket. ARGV: microseconds between two requests, and how much sooner a burst may come (GCRA).
-- Takes the next turn; returns the microseconds to wait for it.
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local after = due + tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000) + 1000)
return string.format('%.0f', math.max(0, due - tonumber(ARGV[2]) - now))
"""
)
