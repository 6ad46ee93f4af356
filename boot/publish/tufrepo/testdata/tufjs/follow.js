// Follows a repository: node follow.js URL DIRECTORY TARGET...
// DIRECTORY/metadata/root.json is the trusted root.
const { Updater } = require("tuf-js");

async function main() {
  const [url, dir, ...targets] = process.argv.slice(2);
  const updater = new Updater({
    metadataDir: `${dir}/metadata`,
    metadataBaseUrl: `${url}/metadata`,
    targetDir: `${dir}/targets`,
    targetBaseUrl: `${url}/targets`,
  });
  await updater.refresh();
  for (const name of targets) {
    const info = await updater.getTargetInfo(name);
    if (!info) throw new Error(`no target ${name}`);
    await updater.downloadTarget(info, `${dir}/targets/${encodeURIComponent(name)}`);
  }
}

main().catch((err) => {
  console.error(err);
  process.exit(1);
});
