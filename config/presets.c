/*
 * What belongs here: hosts that a build or an agent needs to *fetch* public things, each of which one
 * operator answers for. What does not: wildcards, shared storage and CDN domains where anyone can put or
 * collect data (storage.googleapis.com, *.cloudfront.net), paste and gist services, upload endpoints.
 *
 * Even so a host on a list is a way out: a package can be published, an issue opened, a prompt sent. A policy
 * that needs less should name less.
 */
#include "config/presets.h"

#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static const struct preset_host package_managers[] = {
    /* JavaScript */
    {"registry.npmjs.org", "npm, pnpm, yarn: package metadata and tarballs"},
    {"registry.yarnpkg.com", "yarn 1: its default registry, the same packages as npm's"},
    {"repo.yarnpkg.com", "yarn 2 and later: releases of yarn itself (corepack)"},
    {"jsr.io", "JSR: package metadata and modules for Deno"},
    {"npm.jsr.io", "JSR: the same packages in npm's format"},
    {"deno.land", "Deno: modules imported by URL"},
    /* Python */
    {"pypi.org", "pip, uv, poetry: the package index"},
    {"files.pythonhosted.org", "pip, uv, poetry: the package files"},
    {"conda.anaconda.org", "conda: community channels such as conda-forge"},
    {"repo.anaconda.com", "conda: the default channels"},
    /* Rust */
    {"index.crates.io", "cargo: the sparse index"},
    {"static.crates.io", "cargo: crate files"},
    {"crates.io", "cargo: the API (search, and downloads of older versions)"},
    {"static.rust-lang.org", "rustup: toolchains and their manifests"},
    /* Go */
    {"proxy.golang.org", "go: the module proxy"},
    {"sum.golang.org", "go: the checksum database"},
    {"go.dev", "go: the list of toolchain releases"},
    {"golang.org", "go: import paths of golang.org/x when the proxy is bypassed"},
    /* Ruby */
    {"rubygems.org", "gem, bundler: the API and gem files"},
    {"index.rubygems.org", "bundler: the compact index"},
    /* Java and its relatives */
    {"repo.maven.apache.org", "Maven: Central, its default address"},
    {"repo1.maven.org", "Maven, Gradle, sbt: Central, its older address"},
    {"plugins.gradle.org", "Gradle: the plugin portal"},
    {"plugins-artifacts.gradle.org", "Gradle: files the plugin portal redirects to"},
    {"services.gradle.org", "Gradle: the wrapper's distributions"},
    /* .NET, PHP, Elixir, Perl, Haskell, Dart, R */
    {"api.nuget.org", "NuGet: index and packages"},
    {"repo.packagist.org", "composer: package metadata"},
    {"getcomposer.org", "composer: releases of composer itself"},
    {"hex.pm", "mix, rebar3: the API"},
    {"repo.hex.pm", "mix, rebar3: packages"},
    {"builds.hex.pm", "mix: releases of hex and rebar3 themselves"},
    {"fastapi.metacpan.org", "cpanm, cpm: the module index"},
    {"cpan.metacpan.org", "cpan, cpanm, cpm: distribution files"},
    {"hackage.haskell.org", "cabal: index and packages"},
    {"pub.dev", "dart, flutter: index and packages"},
    {"cloud.r-project.org", "R: CRAN's mirror that picks the nearest"},
    {"cran.r-project.org", "R: CRAN itself"},
    /* Linux distributions (plain HTTP by default; the packages are signed) */
    {"deb.debian.org", "apt on Debian: packages"},
    {"security.debian.org", "apt on Debian: security updates"},
    {"archive.ubuntu.com", "apt on Ubuntu: packages (amd64)"},
    {"security.ubuntu.com", "apt on Ubuntu: security updates"},
    {"ports.ubuntu.com", "apt on Ubuntu: packages for arm64 and others"},
    {"dl-cdn.alpinelinux.org", "apk on Alpine: packages"},
};

static const struct preset_host git_hosts[] = {
    {"github.com", "GitHub: git over HTTPS, release pages, the web site"},
    {"api.github.com", "GitHub: the API (gh, release look-ups of installers)"},
    {"codeload.github.com", "GitHub: source archives (tar.gz, zip)"},
    {"raw.githubusercontent.com", "GitHub: single files of a repository"},
    {"objects.githubusercontent.com", "GitHub: release assets and Git LFS objects, older redirects"},
    {"release-assets.githubusercontent.com", "GitHub: release assets, where downloads redirect to"},
    {"media.githubusercontent.com", "GitHub: single files kept in Git LFS"},
    {"github-cloud.githubusercontent.com", "GitHub: Git LFS downloads"},
    {"gitlab.com", "GitLab: git over HTTPS, the API, archives"},
    {"bitbucket.org", "Bitbucket: git over HTTPS, archives"},
    {"api.bitbucket.org", "Bitbucket: the API"},
    {"codeberg.org", "Codeberg: git over HTTPS, the API, archives"},
};

static const struct preset_host ai_apis[] = {
    {"api.anthropic.com", "Anthropic: the Claude API"},
    {"api.openai.com", "OpenAI: the API"},
    {"generativelanguage.googleapis.com", "Google: the Gemini API"},
    {"api.mistral.ai", "Mistral: the API"},
};

static const struct preset_host agent[] = {
    {"mise.run", "mise: the installer script"},
    {"mise.jdx.dev", "mise: releases and the version index"},
    {"nodejs.org", "Node.js: releases, for mise, nvm, fnm, volta"},
};

const struct preset presets[] = {
    {"package-managers",
     "registries and mirrors that package managers fetch from",
     "preset package-managers",
     {NULL},
     package_managers,
     COUNT(package_managers)},
    {"git-hosts",
     "public git hosting: clone, archives, releases",
     "preset git-hosts",
     {NULL},
     git_hosts,
     COUNT(git_hosts)},
    {"ai-apis", "APIs of language models", "preset ai-apis", {NULL}, ai_apis, COUNT(ai_apis)},
    {"agent",
     "all of the above and the installers of tool versions",
     "preset agent",
     {"package-managers", "git-hosts", "ai-apis"},
     agent,
     COUNT(agent)},
};
const size_t preset_count = COUNT(presets);

const struct preset *preset_find(const char *name)
{
    for (size_t i = 0; i < preset_count; i++)
        if (!strcmp(presets[i].name, name))
            return &presets[i];
    return NULL;
}

static int each_own(const struct preset *preset,
                    int (*each)(const struct preset *from, const struct preset_host *host, void *arg),
                    void *arg)
{
    int r = 0;
    for (size_t i = 0; i < preset->host_count && r == 0; i++)
        r = each(preset, &preset->hosts[i], arg);
    return r;
}

/* One level of inclusion is all there is. */
int preset_each(const struct preset *preset,
                int (*each)(const struct preset *from, const struct preset_host *host, void *arg), void *arg)
{
    int r = 0;
    for (size_t i = 0; i < PRESET_INCLUDES_MAX && preset->includes[i] && r == 0; i++)
        r = each_own(preset_find(preset->includes[i]), each, arg);
    return r ? r : each_own(preset, each, arg);
}
