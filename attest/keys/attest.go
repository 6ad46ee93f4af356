// Package keys says what the keys of a device look like and which TPM policies guard them. Device and verifier share
// it, so that both derive the same templates, Names and digests from one place. It talks to no TPM.
//
//	EK         the TPM's identity, made by its manufacturer's template. Restricted decryption: it can open a credential
//	           and nothing else.
//	AK         restricted signing key of the endorsement hierarchy. Anyone on the machine may let it quote; opening a
//	           credential for it needs the release key's approval of the PCRs and of that very credential.
//	agent key  signing key of the owner hierarchy for TLS. Using it needs the release key's approval of the PCRs after
//	           the loader has ended.
//
// The policy of a key is part of its template, the template is part of its Name, and the Name is what is certified,
// so a key with a weaker policy is a different key. What the policies close:
//
//   - PolicyPCR: a secret is released to a state that is gone when it is used.
//   - PolicyCpHash: an old approval opens a credential that somebody else made; anyone who knows two public keys can
//     make one.
//   - PolicyCounterTimer: a recorded release opens in a later boot that has the same PCRs, without asking again. It holds both
//     counts of the TPM's starts, resets and restarts.
//   - PolicyCommandCode: an approval is used for another command that needs the same role, such as certifying the AK.
//   - the policy reference ("release/v1", "agent-key/v1"): an approval for one key is used with the other.
package keys
