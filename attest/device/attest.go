// Package device is the device's side of attestation: it proves to attestd what booted and obtains the site's secrets,
// and it is the agent's key afterwards.
//
// A boot is [Client.Hello] (the signed time), then after measuring [Client.Boot] (M1 to M4 and the activation in the
// TPM), then [Client.Ack] (M5). The running OS uses [Client.Renew] and, as its TLS key, [AgentKey].
//
// Anyone who is on the line can read and change everything, replay what he recorded and be attestd himself; TLS gives
// privacy only. What the device checks, and against what:
//
//   - Hello is signed over this request, whose nonce is fresh: against an old answer that turns the clock back.
//   - M2 is signed over H(M1): against a challenge made for somebody else, or recorded.
//   - M4 is signed over T, which holds our fresh nonce: against a recorded M4, and against a seal key of the
//     attacker's that would have us format a volume he can open.
//   - The approved policy is computed here, from the PCR values that were quoted and the credential as received, so
//     the TPM opens the credential only if the release key approved both, and the PCRs are still those.
//   - The session for the activation is salted to the very EK public that M1 named and the server signed for, and the
//     answer is encrypted: against a probe on the TPM's bus.
//   - The secrets are sealed with T and the decision as associated data: against parts of two releases being mixed.
//
// Every request has a deadline and every answer a size limit. Every handle is flushed, every secret wiped.
package device
