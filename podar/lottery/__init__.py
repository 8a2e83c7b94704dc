"""Lottery tickets: sparse subnetworks with rewound weights, the search for them, and the controls that test them."""

from podar.lottery.curve import ARMS, CurvePoint, TicketPoint
from podar.lottery.search import find_ticket
from podar.lottery.tickets import Tickets

__all__ = ["ARMS", "CurvePoint", "TicketPoint", "Tickets", "find_ticket"]
