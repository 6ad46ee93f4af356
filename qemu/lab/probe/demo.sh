#!/bin/sh
# In place of the lab's demo: look at the boot from the inside, then go on as usual.
/usr/lib/sealboot/probe
exec /usr/lib/sealboot/demo-itself
