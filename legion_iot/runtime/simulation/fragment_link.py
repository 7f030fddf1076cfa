"""`wire.delivery` for one participant in virtual time; parcels and receipts travel as bytes, at QoS 0."""

from __future__ import annotations

import math
from collections.abc import Callable

from legion_iot.runtime.simulation.agenda import Agenda
from legion_iot.wire import codec, delivery
from legion_iot.wire.messages import Fragment, Parcel, Receipt
from legion_iot.wire.tensors import Piece, open_parcel, pack_parcel


class FragmentLink:
    """`publish` sends bytes to a participant; `emit` takes fragments that came, `undelivered` what was given up.

    While the participant `is_asleep`, nothing happens but that what is due waits for `wake`.
    """

    def __init__(
        self,
        agenda: Agenda,
        stream: int,
        publish: Callable[[str, bytes], None],
        emit: Callable[[str, Fragment, memoryview], None],
        undelivered: Callable[[delivery.GiveUp], None],
    ) -> None:
        self.state = delivery.State(stream)
        self.is_asleep = False
        self._agenda, self._publish, self._emit, self._undelivered = agenda, publish, emit, undelivered
        self._alarm_at = math.inf

    def send(self, target: str, pieces: list[Piece]) -> None:
        self._step(delivery.Offer(target, pieces))

    def link_up(self) -> None:
        self._step(delivery.LinkUp())

    def take(self, sender: str, message: Parcel | Receipt, body: memoryview) -> None:
        """Raises ProtocolError where it is none that can be."""
        if isinstance(message, Receipt):
            self._step(delivery.ReceiptArrived(sender, message))
            return
        opened = open_parcel(message, body)
        for effect in self._step(delivery.ParcelArrived(sender, message)):
            if isinstance(effect, delivery.Accept):
                for header, elements in opened:
                    self._emit(sender, header, elements)

    def wake(self) -> None:
        """What was due meanwhile is due now."""
        self.is_asleep = False
        self._step(delivery.Tick())

    def _step(self, event: delivery.Event) -> list[delivery.Effect]:
        effects = delivery.step(self.state, event, self._agenda.now)
        for effect in effects:
            match effect:
                case delivery.Transmit(target=target, parcel=parcel, bodies=bodies):
                    self._publish(target, b"".join(pack_parcel(parcel, bodies)))
                case delivery.Answer(target=target, receipt=receipt):
                    self._publish(target, codec.pack(receipt))
                case delivery.GiveUp():
                    self._undelivered(effect)
        self._set_alarm(self._due_after(event))
        return effects

    def _due_after(self, event: delivery.Event) -> float:
        """When something is due that was not before; all there is need not be looked through for that."""
        state = self.state
        match event:
            case delivery.Offer(target=name) | delivery.ReceiptArrived(sender=name):
                outgoing = state.outgoing.get(name)
                return math.inf if outgoing is None else outgoing.late_at
            case delivery.ParcelArrived(sender=name, parcel=parcel):
                incoming = state.incoming.get((name, parcel.stream))
                return math.inf if incoming is None else incoming.answer_at
        return state.due()

    def _set_alarm(self, due: float) -> None:
        """One alarm at a time, for whatever is due first."""
        if due < self._alarm_at:
            self._alarm_at = due
            self._agenda.at(max(0.0, due - self._agenda.now), lambda: self._alarm(due))

    def _alarm(self, due: float) -> None:
        if due != self._alarm_at:
            return  # an earlier one took its place
        self._alarm_at = math.inf
        if self.is_asleep:
            return
        if self.state.due() <= self._agenda.now:
            self._step(delivery.Tick())
        else:
            self._set_alarm(self.state.due())
