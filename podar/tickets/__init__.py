"""Lottery tickets: sparse subnetworks with rewound weights, the search for them, and the controls that test them."""

from podar.tickets.curve import ARMS, CurvePoint, TicketPoint
from podar.tickets.search import find_ticket
from podar.tickets.ticket import Tickets

__all__ = ["ARMS", "CurvePoint", "TicketPoint", "Tickets", "find_ticket"]
