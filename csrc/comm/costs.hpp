// What moving and summing bytes costs here: the numbers behind every choice of "auto". The same on every rank, or the ranks
// would choose differently: defaults that follow from what all ranks know, or measured ones that all were given.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "schedule/select.hpp"
#include "transport/transport.hpp"

namespace gw {

class Communicator;

struct CodecRate {
  double encode_s_per_byte, decode_s_per_byte;  // of one core, per raw byte; decoding includes adding
};

struct Costs {
  std::vector<Link> links;   // [from * size + to]
  std::vector<int> machine;  // [size] whose cores a rank uses
  int cores = 0;             // of each machine; 0: one for every rank
  double reduce_s_per_byte = 0;
  std::map<std::string, CodecRate> codecs;  // by description, such as "int4(block=32)"
  // Of whole all_reduces, likewise; "": without a codec. Empty: nothing has been tried.
  std::map<std::string, std::vector<Trial>> trials;

  // Throws Error(argument) unless they describe `size` ranks.
  void check(int size) const;
  Link slowest() const;  // for one message of 256 KiB
};

// Unmeasured: orders of magnitude by kind of link.
Costs default_costs(const Transport& transport);

struct LinkTimes {
  double latency_s = 0;  // one way, of a message of 8 bytes
  double message_s = 0;  // between messages of 8 bytes sent back to back
  double byte_s = 0;     // between bytes of a large array
};

// Times the link to `peer`, which calls this at the same time with leads = false and gets zeros. A few 10 ms, more only
// on slow links.
LinkTimes measure_link(Communicator& communicator, int peer, bool leads);

}  // namespace gw
