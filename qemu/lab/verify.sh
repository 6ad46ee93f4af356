#!/bin/sh
# Verify the last quote of the lab's machine with tools that Sealboot has not
# written: tpm2-tools, openssl, coreutils. Run it in the directory with the files:
#
#   ak.pem            the attestation key
#   quote.msg         TPMS_ATTEST
#   quote.sig         TPMT_SIGNATURE
#   qualification     hex of the extraData that the quote must carry
#   pcrs              lines of PCR number and SHA-256 value, as sent with the quote
#   firmware.log      the platform firmware's event log
#   predicted         PCR 12 as "sealboot predict image" computed it before the boot
set -eu
cd "$(dirname "$0")"

echo "== the quote is signed by the attestation key, over the transcript"
tpm2_checkquote --public ak.pem --message quote.msg --signature quote.sig \
	--hash-algorithm sha256 --qualification "$(cat qualification)" >checkquote.out

echo "== the quoted digest is that of the PCR values"
tpm2_print --type TPMS_ATTEST quote.msg >quote.yaml
quoted=$(sed -n 's/^ *pcrDigest: *//p' quote.yaml)
computed=$(cut -d' ' -f2 pcrs | tr -d '\n' | tr a-f A-F | basenc --base16 -d | sha256sum | cut -d' ' -f1)
[ "$quoted" = "$computed" ] || { echo "quote has $quoted, the values give $computed" >&2; exit 1; }

echo "== the firmware's event log replays to the PCR values"
tpm2_eventlog firmware.log >eventlog.yaml 2>/dev/null
sed -n '/^pcrs:/,$p' eventlog.yaml | sed -n '/^  sha256:/,/^  [a-z]/s/^ *\([0-9]*\) *: 0x\([0-9a-f]*\)/\1 \2/p' >replayed
while read -r pcr value; do
	found=$(sed -n "s/^$pcr //p" pcrs)
	[ -z "$found" ] || [ "$found" = "$value" ] || { echo "PCR $pcr: quoted $found, replayed $value" >&2; exit 1; }
done <replayed
[ "$(wc -l <replayed)" -ge 8 ] || { echo "the log explains only $(wc -l <replayed) PCRs" >&2; exit 1; }

echo "== PCR 12 is what was predicted"
[ "$(sed -n 's/^12 //p' pcrs)" = "$(cat predicted)" ] || { echo "PCR 12 is not the predicted value" >&2; exit 1; }
echo "verified with $(tpm2_checkquote --version 2>&1 | sed -n 's/.*version="\([^"]*\)".*/tpm2-tools \1/p')"
