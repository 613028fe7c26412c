# Homebrew's formula: builds the program from a release's sources, without `demo`, as the other packages have it.
#
# `url` and `sha256` are nobody's here, so that this file installs nothing as it is: deploy/homebrew/formula fills them in.
class CareportalsSidecar < Formula
  desc "Local authenticating proxy for CarePortals"
  homepage "https://careportals-sidecar.invalid/"
  url "https://careportals-sidecar.invalid/careportals-sidecar-0.1.0.tar.gz"
  sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  license any_of: ["Apache-2.0", "MIT"]

  depends_on "rust" => :build

  def install
    system "cargo", "install", "--no-default-features", *std_cargo_args
    man1.install Dir["deploy/man/*.1"]
    man5.install Dir["deploy/man/*.5"]
    bash_completion.install "deploy/completions/careportals-sidecar"
    zsh_completion.install "deploy/completions/_careportals-sidecar"
    fish_completion.install "deploy/completions/careportals-sidecar.fish"
    pkgshare.install "config"
  end

  def caveats
    <<~EOS
      Settings belong in #{etc}/careportals-sidecar/config.toml; examples are in
        #{opt_pkgshare}/config
      Then: careportals-sidecar check --online --config #{etc}/careportals-sidecar/config.toml
    EOS
  end

  service do
    run [opt_bin/"careportals-sidecar", "run", "--config", etc/"careportals-sidecar/config.toml"]
    keep_alive crashed: true
    log_path var/"log/careportals-sidecar.log"
    error_log_path var/"log/careportals-sidecar.log"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/careportals-sidecar --version")
    # Nothing is set, so the check names what is missing, and exits as for an invalid configuration.
    assert_match "CAREPORTALS_ORGANIZATION: is not set", shell_output("#{bin}/careportals-sidecar check 2>&1", 78)
  end
end
