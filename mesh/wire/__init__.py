"""Pure protocols: bytes in, events and bytes out; time is an argument. No asyncio, socket, ssl, os, time or random here."""
