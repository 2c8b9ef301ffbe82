"""Every topic and payload: what goes over the wire or lies in a card. Outside text becomes typed values here."""
