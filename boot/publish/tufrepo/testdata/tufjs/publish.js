// Makes a repository: node publish.js DIRECTORY. It has the target "os" in
// targets and "team/file" in the delegated role "team", both with the content
// "made by tuf-js\n", keys of every type, and thresholds.
const crypto = require("crypto");
const fs = require("fs");
const path = require("path");
const m = require("@tufjs/models");
const { Delegations } = require("@tufjs/models/dist/delegations");
const { DelegatedRole } = require("@tufjs/models/dist/role");

const expires = new Date(Date.now() + 864e5 * 30).toISOString().replace(/\.\d+Z/, "Z");
const common = { version: 1, specVersion: "1.0.0", expires };

function newKey(type) {
  const [make, keyType, scheme] = {
    ed25519: [() => crypto.generateKeyPairSync("ed25519"), "ed25519", "ed25519"],
    ecdsa: [() => crypto.generateKeyPairSync("ec", { namedCurve: "P-256" }), "ecdsa", "ecdsa-sha2-nistp256"],
    rsa: [() => crypto.generateKeyPairSync("rsa", { modulusLength: 2048 }), "rsa", "rsassa-pss-sha256"],
  }[type];
  const { publicKey, privateKey } = make();
  const pub = type === "ed25519"
    ? publicKey.export({ format: "der", type: "spki" }).subarray(-32).toString("hex")
    : publicKey.export({ format: "pem", type: "spki" });
  const keyID = crypto.createHash("sha256").update(pub).digest("hex");
  const key = new m.Key({ keyID, keyType, scheme, keyVal: { public: pub } });
  const sign = (data) => new m.Signature({
    keyID,
    sig: (type === "rsa"
      ? crypto.sign("sha256", data, { key: privateKey, padding: crypto.constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 })
      : crypto.sign(type === "ecdsa" ? "sha256" : null, data, privateKey)).toString("hex"),
  });
  return { key, sign };
}

const dir = process.argv[2];
const content = "made by tuf-js\n";
const digest = crypto.createHash("sha256").update(content).digest("hex");
const keys = {
  root: [newKey("ed25519"), newKey("ecdsa")], timestamp: [newKey("ecdsa")],
  snapshot: [newKey("rsa")], targets: [newKey("ed25519")], team: [newKey("ecdsa")],
};
const target = (name) => new m.TargetFile({ path: name, length: content.length, hashes: { sha256: digest } });

function write(name, file, signed, role) {
  const md = new m.Metadata(signed);
  for (const k of keys[role]) md.sign(k.sign);
  fs.mkdirSync(path.join(dir, "metadata"), { recursive: true });
  const data = JSON.stringify(md.toJSON(), null, 1);
  fs.writeFileSync(path.join(dir, "metadata", file), data);
  return new m.MetaFile({ version: 1, length: data.length, hashes: { sha256: crypto.createHash("sha256").update(data).digest("hex") } });
}

const team = new m.Targets({ ...common });
team.addTarget(target("team/file"));
const targets = new m.Targets({ ...common });
targets.addTarget(target("os"));
targets.delegations = new Delegations({
  keys: { [keys.team[0].key.keyID]: keys.team[0].key },
  roles: { team: new DelegatedRole({ name: "team", keyIDs: [keys.team[0].key.keyID], threshold: 1, terminating: true, paths: ["team/*"] }) },
});
const meta = { "team.json": write("team", "1.team.json", team, "team"), "targets.json": write("targets", "1.targets.json", targets, "targets") };
const snapshotMeta = write("snapshot", "1.snapshot.json", new m.Snapshot({ ...common, meta }), "snapshot");
write("timestamp", "timestamp.json", new m.Timestamp({ ...common, snapshotMeta }), "timestamp");
const root = new m.Root({ ...common, consistentSnapshot: true });
for (const role of ["root", "timestamp", "snapshot", "targets"]) for (const k of keys[role]) root.addKey(k.key, role);
root.roles.root.threshold = 2;
write("root", "1.root.json", root, "root");
for (const name of ["", "team"]) {
  fs.mkdirSync(path.join(dir, "targets", name), { recursive: true });
  fs.writeFileSync(path.join(dir, "targets", name, `${digest}.${name ? "file" : "os"}`), content);
}
