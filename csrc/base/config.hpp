// Every setting, in one struct, read from the environment once per communicator. The only getenv in csrc is in
// config.cpp (a test greps). A keyword argument of gradwire.init() overrides the variable of the same name.
#pragma once
#include <cstddef>
#include <string>

namespace gw {

inline constexpr int kMostSockets = 16;
inline constexpr size_t kSmallestChannel = size_t{64} << 10;  // a block of every codec fits

struct Config {
  // GRADWIRE_TIMEOUT_S (default 300): how long an operation may wait for its peers.
  double timeout_s = 300;
  // GRADWIRE_TRANSPORT (auto | shm | tcp, default auto): auto = shm inside a host, TCP across.
  std::string transport = "auto";
  // GRADWIRE_SOCKETS (default 0): TCP sockets per peer and lane; 0 = as many as the path's round trip asks for.
  int sockets = 0;
  // GRADWIRE_CONGESTION (auto | system | a name, default auto): TCP congestion control of data sockets; auto = the
  // system's, but reno where the round trip is below 1 ms. See transport/tuning.hpp.
  std::string congestion = "auto";
  // GRADWIRE_HEARTBEAT_S (default 30; 0: off): a host that answers nothing for so long is lost, however long its
  // operation may take. See comm/FAULTS.md.
  double heartbeat_s = 30;
  // GRADWIRE_CHANNEL_BYTES (default 512 KiB, a power of two): buffer of one direction of one channel. Two of them, mine
  // and the peer's, must leave room for the array in a 2 MiB cache: 1 MiB costs 5-10 % from 1 to 4 MiB (2 cores, 2026-11).
  // Where all ranks, more than two, share one host, collectives have a quarter, at least 64 KiB; between hosts twice as
  // much. 4 ranks on 2 cores: 25 MiB took 8.6 ms instead of 10.2, 64 KiB 17 us instead of 20.6.
  size_t channel_bytes = size_t{512} << 10;
  // GRADWIRE_SEGMENT_BYTES (default 0: an eighth of channel_bytes, or a quarter where no two ranks share a host; at most
  // a quarter): pipelining unit of uncoded data. See csrc/README.md, "Segments follow the path".
  size_t segment_bytes = 0;
  // GRADWIRE_SPIN_US (default 50; 0 when ranks on this machine outnumber cores): spin before yielding.
  double spin_us = 50;
  // GRADWIRE_IFNAME (default: the interface that reaches the store; with a file:// store every interface, of which a
  // peer takes the first that answers): network interface to listen on.
  std::string ifname;

  // GRADWIRE_TOPOLOGY (default: nothing is known): the file that `gradwire probe` wrote, or "auto"; rank 0 reads it.
  std::string topology;
  // GRADWIRE_DETERMINISTIC (run | size-invariant, default run): run = the same calls give the same bits in every run;
  // size-invariant = moreover every element is summed in the order of ranks, so that cutting an array in pieces, or
  // fusing several, changes no bit (with a lossy codec: if it is cut at multiples of the codec's block; all_reduce then
  // takes one_shot, because elsewhere the owner of an element adds its own value unencoded).
  std::string deterministic = "run";

  // GRADWIRE_GPU (auto | off | sim, default auto): sim = GPU arrays live in the simulator of csrc/cusim, for tests.
  std::string gpu = "auto";
  // GRADWIRE_GPU_PEERS (on | off, default off): an all_reduce of GPU arrays goes through GPU memory that ranks of one host
  // map, where all of them can: see comm/driver_peer.hpp. The same on every rank.
  bool gpu_peers = false;

  static Config from_env();  // throws Error(argument) that names the variable, its value and what is allowed
  void check() const;        // the same checks for values set by keyword
};

}  // namespace gw
