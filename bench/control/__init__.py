"""What the control plane costs as a mesh grows: a cold start, one change, a certificate, and its memory."""
