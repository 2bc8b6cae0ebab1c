# To be sourced: packages of Debian bullseye, downloaded without being installed.

# Makes `options` for apt-get: lists and files stay in the folder $1, and the only source is bullseye at the mirror that
# this machine uses.
bullseye() {
  mkdir -p "$1"/{lists/partial,cache/archives/partial,sources}
  # The first section of Debian's own sources that is not about security, in either of apt's two forms.
  if [ -e /etc/apt/sources.list.d/debian.sources ]; then
    awk -v RS= '!/-security/ { gsub(/Suites:[^\n]*/, "Suites: bullseye"); print; exit }' \
      /etc/apt/sources.list.d/debian.sources >"$1/sources/bullseye.sources"
  else
    awk '$1 == "deb" && !/-security/ && /bookworm/ { gsub(/bookworm[-a-z]*/, "bullseye"); print; exit }' \
      /etc/apt/sources.list >"$1/sources/bullseye.list"
  fi
  options=(
    -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$1/sources"
    -o "Dir::State::lists=$1/lists" -o "Dir::Cache=$1/cache" -o APT::Sandbox::User=root
  )
  apt-get "${options[@]}" update -q
}
