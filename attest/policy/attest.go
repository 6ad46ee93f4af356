// Package policy holds the appraisal policy: which images, loaders and platform firmware are known to be good, and
// what else must hold before a site trusts a device. It compares them with what [verify] has proven.
//
// A policy is a [Set] of documents, each a JSON file that people read and sign ([Sign], [Open]):
//
//	image    one operating system image: its records in PCR 12, and the values they give. Predicted from artifacts.
//	loader   one loader: what its start measures into PCR 4 and 11, its site config and release key. Predicted.
//	profile  what the platform firmware of one hardware model measures. Recorded from a reference machine whose loader
//	         is a dummy, then reviewed: nothing is learned from a boot that it judges.
//	rules    what may stand in PCR 13, and which classes of root of trust a site accepts.
//
// [Set.Appraise] closes these holes, in this order:
//
//   - Evidence in a PCR bank that the rules do not name: firmware may leave an active bank to anyone who comes later.
//   - PCR 0-7 all zero: nothing measured the loader, so whatever the loader's PCRs say, anything may have said it.
//   - No EK certificate where a device needs one.
//   - A platform that differs from its profile, or whose root of trust the site refuses. A PCR without a rule must
//     have no events. Only digests count: the type and data of a firmware event are the attacker's to choose, which is
//     why a rule ignores a whole PCR or nothing.
//   - A loader that is not known, and with it another site config or release key.
//   - An image that is not known, or older than what the device has run.
//   - A record in PCR 13 that no rule allows, or a required one that is missing.
//
// Whatever no rule speaks of is denied.
package policy
