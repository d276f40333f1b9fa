#!/usr/bin/env bash
# pyJoules 0.5.1.
# The kernel's counter of a processor's energy (RAPL) begins again at 0 where it reaches `max_energy_range_uj`, every 40 minutes or so at 100 W.
# pyJoules takes the difference of two readings and does not read the range: over a counter that has begun again the energy of a
# program is negative, without a word, and the sum over a trace with it. Here 2 J are taken of a counter that holds 262.144 J.
# What helps: read `max_energy_range_uj`, add it where a reading is below the last one, and look at least once in the time of a full counter.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet pyJoules==0.5.1
zone=rapl/intel-rapl:0
mkdir -p "$zone"
echo package-0 > "$zone/name"; echo 262144000 > "$zone/max_energy_range_uj"; echo 261144000 > "$zone/energy_uj"
cat > measure.py <<'PY'
from pathlib import Path

from pyJoules.device import rapl_device
from pyJoules.energy_meter import EnergyMeter

rapl_device.RAPL_API_DIR = "rapl"  # in place of the kernel's folder, which needs an Intel processor and root
device = rapl_device.RaplDevice()
device.configure([rapl_device.RaplPackageDomain(0)])
meter = EnergyMeter([device])
meter.start(tag="work")
Path("rapl/intel-rapl:0/energy_uj").write_text("1000000\n")
meter.stop()
(sample,) = meter.get_trace()
print({name: microjoules / 1e6 for name, microjoules in sample.energy.items()}, "J")
PY
seen=$(env/bin/python -W ignore measure.py)
echo "$seen"
test "$seen" = "{'package_0': -260.144} J"
