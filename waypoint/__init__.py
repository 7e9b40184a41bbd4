"""The place of the waypoint, which will route request by request. Nothing is built here yet."""
