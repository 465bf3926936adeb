// What the path to a peer asks of its TCP connections, judged by its round trip.
#pragma once
#include <string>

namespace gw {

// The shortest round trip the kernel has seen on a connected TCP socket, in seconds; 0 if it does not say.
double round_trip_s(int socket);

// How many sockets carry one lane of a path with that round trip. A socket has at most a window's worth of bytes under
// way (the maximum of net.ipv4.tcp_wmem, 4 MiB if nobody tuned it), so round trip x bandwidth decides: at an assumed
// 10 Gbit/s one socket is enough up to about 3 ms, a WAN wants several. On a short path more of them cost: a ring of
// 25 MiB between unlimited namespaces took 12.5 ms on 1, 21 on 2, 23 on 4 (measured, 2 cores, 2026-11); on 1 Gbit/s all
// the same.
int sockets_for(double round_trip_s);

// Sets the congestion control of a connected socket: "auto", "system" (leaves it alone), or a name. "auto" replaces
// BBR and cubic by reno where the round trip is below 1 ms. BBR paces by timers that then cost more than the sending
// itself, and messages that stop and go mislead its estimate of the bandwidth. Cubic grows by the clock, reno by round
// trips: after one packet out of order (a thread that changes cores is enough) cubic's window stays small for hundreds
// of them. Measured between two namespaces without a limit, 2 cores, ring all-reduce of 25 MiB: BBR 23 to 40 ms, now
// and then 180; cubic 11 to 22; reno 10 to 17 (iperf3 both ways, BBR and reno: 22 and 56 Gbit/s). On a 1 Gbit/s link
// the three are equal.
// Throws Error(rendezvous) if a name was given and the kernel does not allow it.
void choose_congestion_control(int socket, const std::string& wanted);
std::string congestion_control(int socket);  // in use

// Breaks a connection over which nothing has been heard for `seconds` (and up to a third more), though asked: after a
// third of them the kernel sends a keepalive probe, and again. The peer's kernel answers, whatever its process does:
// a rank that computes, swaps or is stopped is alive; a host that is down or cut off is not. No thread, no wake-up. For
// control connections alone: on a data connection a peer that does not read for long is no fault, but would count as one.
void set_heartbeat(int socket, double seconds);

}  // namespace gw
