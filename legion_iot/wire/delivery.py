"""Fragments over a broker that may lose messages: acknowledgement, credits and resend, as a state machine.

The theory. Fragments travel at QoS 0, several small ones to the same participant in one parcel. Parcels are numbered in
the order in which they are first sent. Now and then a parcel asks for a receipt, which says which numbers have come: at
once every so many bytes, and where the sender waits for it; soon, with others together, at the end of a burst. So a map
of 13 MB costs a dozen tiny messages back, and a halo, which nobody waits to be acknowledged, a part of one.

Credits: what one sender has under way to one receiver is bounded in bytes and in parcels, so that no queue of the
broker can run over. The bytes follow what the receiver takes in `CREDIT_SECONDS`: enough to keep any link busy, and
little enough that on a slow one, too, nothing waits longer for what is under way already. Small fragments overtake
large ones that wait, and are held up by the number of parcels alone.

Resend: one sender's messages keep their order as long as the link holds. So a parcel is lost when a receipt answers
one that was sent after it; when the link was lost; and when no receipt comes for some time, which follows the measured
round trips and doubles each time. In the last case a single parcel is sent again: the receipt for it tells of the
others. Without a receipt for `GIVE_UP` seconds everything for that receiver is given up, with the requests concerned.

A receiver that starts anew learns from a parcel's `floor` what it need not wait for; a sender that starts anew opens
another stream.

| event           | effects                                                                |
|-----------------|------------------------------------------------------------------------|
| Offer           | Transmit …, as far as credits allow                                     |
| ParcelArrived   | Accept where it came for the first time; Answer where that is urgent    |
| ReceiptArrived  | Transmit what was lost, and what waits and now has credit               |
| LinkUp          | Transmit all that is under way                                          |
| Tick            | Answer …; Transmit the oldest parcel of a receiver that is late; GiveUp |
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from legion_iot.errors import ProtocolError
from legion_iot.wire.messages import Parcel, Receipt
from legion_iot.wire.tensors import Piece

LEAST_CREDIT, FIRST_CREDIT, MOST_CREDIT = 1 << 20, 4 << 20, 16 << 20  # bytes under way to one receiver
CREDIT_SECONDS = 0.15
CREDIT_PARCELS = 64
LEAST_PARCEL, MOST_PARCEL = 32 << 10, 64 << 10  # bytes that several fragments in one parcel may have
PARCEL_SECONDS = 0.002
PARCEL_FRAGMENTS = 16
ANSWERS = 4  # receipts asked for while the credit in bytes or parcels is used up once
LEAST_SAMPLE = 512 << 10  # bytes delivered from which a rate is believed
FIRST_TIMEOUT, LEAST_TIMEOUT, MOST_TIMEOUT = 3.0, 0.5, 5.0  # seconds
GIVE_UP = 30.0  # seconds
SOON = 0.1  # seconds until a receipt that is not urgent; with as much again for the clock's owner, below LEAST_TIMEOUT
MAX_STREAMS = 256  # remembered by a receiver; the one that was silent longest is forgotten

# --- events ---


@dataclass(frozen=True, slots=True)
class Offer:
    """Fragments for `target`; others of `follows` bytes are offered right after them."""

    target: str
    pieces: Sequence[Piece]
    follows: int = 0


@dataclass(frozen=True, slots=True)
class ParcelArrived:
    sender: str
    parcel: Parcel


@dataclass(frozen=True, slots=True)
class ReceiptArrived:
    sender: str
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The broker can be reached again, and may have lost what was under way."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Offer | ParcelArrived | ReceiptArrived | LinkUp | Tick

# --- effects ---


@dataclass(frozen=True, slots=True)
class Transmit:
    target: str
    parcel: Parcel
    bodies: tuple[memoryview, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    target: str
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Accept:
    """The parcel that has just arrived is new."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nothing that was for `target` will be sent any more; `requests` are (epoch, request)."""

    target: str
    requests: tuple[tuple[int, str], ...]
    reason: str


Effect = Transmit | Answer | Accept | GiveUp


@dataclass(slots=True)
class _Sent:
    """A parcel under way: its last transmission's number, time, what had been delivered by then, and what it asked."""

    pieces: tuple[Piece, ...]
    size: int
    transmission: int = 0
    at: float = 0.0
    delivered: int = 0
    urgent: bool = False


@dataclass(slots=True)
class _Outgoing:
    """What goes to one receiver."""

    small: deque[Piece] = field(default_factory=deque)
    large: deque[Piece] = field(default_factory=deque)
    under_way: OrderedDict[int, _Sent] = field(default_factory=OrderedDict)
    bytes_under_way: int = 0
    next_number: int = 0
    transmissions: int = 0
    delivered: int = 0  # bytes
    rate: float = 0.0  # bytes per second; 0 before the first measurement
    unanswered_bytes: int = 0
    unanswered_parcels: int = 0
    round_trip: float = 0.0
    deviation: float = 0.0
    timeouts: int = 0  # in a row
    late_at: float = math.inf
    heard_at: float = 0.0

    @property
    def patience(self) -> float:
        """How long a receipt may take, in seconds, before anything is sent again."""
        timeout = max(LEAST_TIMEOUT, self.round_trip + 4 * self.deviation) if self.round_trip else FIRST_TIMEOUT
        return min(MOST_TIMEOUT, timeout * (1 << self.timeouts))

    @property
    def credit(self) -> int:
        """Bytes of large fragments that may be under way."""
        if not self.rate:
            return FIRST_CREDIT
        return int(min(MOST_CREDIT, max(LEAST_CREDIT, self.rate * CREDIT_SECONDS)))

    @property
    def parcel_bytes(self) -> int:
        """Bytes that fragments in one parcel may have: as with maps, a broker forwards it when it has all of it."""
        if not self.rate:
            return MOST_PARCEL
        return int(min(MOST_PARCEL, max(LEAST_PARCEL, self.rate * PARCEL_SECONDS)))

    @property
    def floor(self) -> int:
        return next(iter(self.under_way), self.next_number)


@dataclass(slots=True)
class _Incoming:
    """What came on one stream: all numbers below `below`, and those `beyond` it."""

    below: int = 0
    beyond: set[int] = field(default_factory=set)
    answer: int = 0
    answer_at: float = math.inf


@dataclass(slots=True)
class State:
    """All that one participant remembers; `stream` is a number that no other run of it has. Only `step` changes it."""

    stream: int
    outgoing: dict[str, _Outgoing] = field(default_factory=dict)
    incoming: OrderedDict[tuple[str, int], _Incoming] = field(default_factory=OrderedDict)
    resent: int = 0

    def due(self) -> float:
        """When the next Tick is needed, infinity where only another event can change anything."""
        late = min((each.late_at for each in self.outgoing.values()), default=math.inf)
        return min(late, min((each.answer_at for each in self.incoming.values()), default=math.inf))


def step(state: State, event: Event, now: float) -> list[Effect]:
    """Take in one event at monotonic time `now` (seconds); the effects are to be carried out in order.

    Raises ProtocolError, and changes nothing, where a parcel or a receipt cannot be.
    """
    match event:
        case Offer(target=target, pieces=pieces, follows=follows):
            outgoing = state.outgoing.setdefault(target, _Outgoing())
            for piece in pieces:
                (outgoing.small if piece.small else outgoing.large).append(piece)
            return _send(state, target, now, follows)
        case ParcelArrived(sender=sender, parcel=parcel):
            return _parcel(state, sender, parcel, now)
        case ReceiptArrived(sender=sender, receipt=receipt):
            return _receipt(state, sender, receipt, now)
        case LinkUp():
            return [
                effect
                for target, outgoing in state.outgoing.items()
                for effect in _resend(state, target, list(outgoing.under_way), now)
            ]
        case Tick():
            answers = [_answer(*key, each) for key, each in state.incoming.items() if each.answer_at <= now]
            late = [target for target, each in state.outgoing.items() if each.late_at <= now]
            return [*answers, *(effect for target in late for effect in _late(state, target, now))]


# --- sending ---


def _send(state: State, target: str, now: float, follows: int = 0) -> list[Effect]:
    """First transmissions, as far as credits allow; the last one asks for a receipt unless more `follows`."""
    outgoing = state.outgoing[target]
    taken: list[int] = []
    while pieces := _take(outgoing):
        size = sum(len(piece.body) for piece in pieces)
        if not outgoing.under_way:
            outgoing.heard_at = now
        outgoing.under_way[outgoing.next_number] = _Sent(pieces, size)
        outgoing.bytes_under_way += size
        outgoing.next_number += 1
        taken.append(size)
    first = outgoing.next_number - len(taken)
    last = outgoing.next_number - 1
    held = bool(outgoing.small or outgoing.large)
    left = sum(taken) + (0 if held else follows)
    effects: list[Effect] = []
    for number, size in enumerate(taken, first):
        left -= size
        asks = number == last and (held or not follows)
        effects.append(_transmit(state, target, number, now, asks=asks, urgent=held, follows=left))
    return effects


def _take(outgoing: _Outgoing) -> tuple[Piece, ...]:
    """The fragments of the next parcel, none where nothing waits or has credit."""
    if outgoing.next_number - outgoing.floor >= CREDIT_PARCELS:
        return ()
    waiting = outgoing.small or outgoing.large
    if not waiting:
        return ()
    # The last one may exceed the credit: on a slow link that is two or three fragments, and a broker needs three to
    # keep both links busy.
    fits = outgoing.bytes_under_way < outgoing.credit and len(outgoing.under_way) < CREDIT_PARCELS // 2
    if waiting is outgoing.large and not fits:
        return ()
    pieces = [waiting.popleft()]
    left = outgoing.parcel_bytes - len(pieces[0].body)
    while waiting and len(pieces) < PARCEL_FRAGMENTS and (left := left - len(waiting[0].body)) >= 0:
        pieces.append(waiting.popleft())
    return tuple(pieces)


def _transmit(
    state: State, target: str, number: int, now: float, asks: bool, urgent: bool, follows: int = 0
) -> Transmit:
    outgoing = state.outgoing[target]
    sent = outgoing.under_way[number]
    outgoing.transmissions += 1
    sent.transmission, sent.at, sent.delivered = outgoing.transmissions, now, outgoing.delivered
    outgoing.unanswered_bytes += sent.size
    outgoing.unanswered_parcels += 1
    used_up = max(outgoing.unanswered_bytes / outgoing.credit, outgoing.unanswered_parcels / CREDIT_PARCELS)
    if used_up * ANSWERS >= 1:
        asks = urgent = True
    if asks and urgent:  # a receipt that comes soon may come too late to give credit back
        outgoing.unanswered_bytes = outgoing.unanswered_parcels = 0
    if outgoing.late_at == math.inf:
        outgoing.late_at = now + outgoing.patience
    headers = tuple(piece.header for piece in sent.pieces)
    answer, sent.urgent = sent.transmission if asks else 0, asks and urgent
    parcel = Parcel(state.stream, number, outgoing.floor, answer, sent.urgent, headers, follows)
    return Transmit(target, parcel, tuple(piece.body for piece in sent.pieces))


def _resend(state: State, target: str, numbers: Sequence[int], now: float) -> list[Effect]:
    effects: list[Effect] = []
    for number in numbers:
        effects.append(_transmit(state, target, number, now, asks=number == numbers[-1], urgent=True))
    state.resent += len(numbers)
    return effects


def _receipt(state: State, sender: str, receipt: Receipt, now: float) -> list[Effect]:
    outgoing = state.outgoing.get(sender)
    if outgoing is None or receipt.stream != state.stream:
        return []  # for the participant of that name before it started anew
    if not 0 <= receipt.below <= outgoing.next_number:
        raise ProtocolError(f"receipt of {sender} for parcel {receipt.below}, which was never sent")
    if receipt.answer > outgoing.transmissions:
        raise ProtocolError(f"receipt of {sender} for transmission {receipt.answer}, which was never made")
    beyond = set(receipt.beyond)
    arrived = [number for number in outgoing.under_way if number < receipt.below or number in beyond]
    gone = [outgoing.under_way.pop(number) for number in arrived]
    size = sum(each.size for each in gone)
    outgoing.bytes_under_way -= size
    outgoing.delivered += size
    for each in gone:
        if each.transmission == receipt.answer:
            _learn(outgoing, now - each.at)
            if each.urgent:  # any other receipt has waited
                _learn_rate(outgoing, now - each.at, outgoing.delivered - each.delivered)
    if arrived:
        outgoing.timeouts = 0
        outgoing.heard_at = now
        outgoing.late_at = now + outgoing.patience if outgoing.under_way else math.inf
    lost = [number for number, each in outgoing.under_way.items() if each.transmission < receipt.answer]
    return [*_resend(state, sender, lost, now), *_send(state, sender, now)]


def _learn_rate(outgoing: _Outgoing, seconds: float, delivered: int) -> None:
    """Take in how many bytes were delivered between a transmission and its receipt."""
    if delivered >= LEAST_SAMPLE and seconds > 0:
        rate = delivered / seconds
        outgoing.rate += (rate - outgoing.rate) / 4 if outgoing.rate else rate


def _learn(outgoing: _Outgoing, measured: float) -> None:
    """Take in how long a receipt took (RFC 6298, section 2)."""
    if not outgoing.round_trip:
        outgoing.round_trip, outgoing.deviation = measured, measured / 2
    else:
        outgoing.deviation += (abs(outgoing.round_trip - measured) - outgoing.deviation) / 4
        outgoing.round_trip += (measured - outgoing.round_trip) / 8


def _late(state: State, target: str, now: float) -> list[Effect]:
    outgoing = state.outgoing[target]
    if now >= outgoing.heard_at + GIVE_UP:
        return [_give_up(state, target, now)]
    outgoing.timeouts += 1
    outgoing.late_at = min(now + outgoing.patience, outgoing.heard_at + GIVE_UP)
    return _resend(state, target, [outgoing.floor], now)


def _give_up(state: State, target: str, now: float) -> GiveUp:
    outgoing = state.outgoing[target]
    waiting = [piece for each in outgoing.under_way.values() for piece in each.pieces]
    waiting += [*outgoing.small, *outgoing.large]
    requests = dict.fromkeys((piece.header.epoch, piece.header.request) for piece in waiting)
    silent = now - outgoing.heard_at
    # Numbers go on, so that what still arrives is never taken for something else.
    state.outgoing[target] = _Outgoing(next_number=outgoing.next_number)
    return GiveUp(target, tuple(requests), f"{target} has acknowledged nothing for {silent:.0f} s")


# --- receiving ---


def _parcel(state: State, sender: str, parcel: Parcel, now: float) -> list[Effect]:
    if not 0 <= parcel.floor <= parcel.number < parcel.floor + CREDIT_PARCELS:
        raise ProtocolError(f"parcel {parcel.number} of {sender} above {parcel.floor} exceeds its credit")
    key = sender, parcel.stream
    incoming = state.incoming.get(key)
    if incoming is None:
        incoming = state.incoming[key] = _Incoming()
        if len(state.incoming) > MAX_STREAMS:
            state.incoming.popitem(last=False)
    else:
        state.incoming.move_to_end(key)
    if parcel.floor > incoming.below:
        incoming.below = parcel.floor
        incoming.beyond = {number for number in incoming.beyond if number >= parcel.floor}
    is_new = parcel.number >= incoming.below and parcel.number not in incoming.beyond
    if is_new:
        incoming.beyond.add(parcel.number)
    while incoming.below in incoming.beyond:
        incoming.beyond.remove(incoming.below)
        incoming.below += 1
    effects: list[Effect] = [Accept()] if is_new else []
    if parcel.answer:
        incoming.answer, incoming.answer_at = parcel.answer, min(incoming.answer_at, now + SOON)
    # What comes again was not answered in time, or its receipt was lost.
    if parcel.urgent or not is_new:
        effects.append(_answer(*key, incoming))
    return effects


def _answer(sender: str, stream: int, incoming: _Incoming) -> Answer:
    incoming.answer_at = math.inf
    return Answer(sender, Receipt(stream, incoming.answer, incoming.below, tuple(sorted(incoming.beyond))))
