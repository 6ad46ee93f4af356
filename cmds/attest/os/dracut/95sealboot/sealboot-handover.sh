#!/bin/sh
/usr/lib/sealboot/handover
