# shellcheck shell=bash
# What the launchers share: the settings file, quoting, dry runs and the commands that they start.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=$(basename "$0")
if ((BASH_VERSINFO[0] < 5)); then
  echo "$program: error: bash 5 or newer is needed, this is $BASH_VERSION" >&2
  exit 2
fi
# shellcheck source=xla_flags.sh
source "$repository/launch/xla_flags.sh"

# Exit status of a run that SIGTERM stopped: 128 + 15, as of one that died of it before it could save.
readonly stopped_status=143
readonly lists=(OVERRIDES ENVIRONMENT EVALUATE_OPTIONS SBATCH_OPTIONS SRUN_OPTIONS TPU_OPTIONS XPK_OPTIONS)
readonly words=(NAME CONFIG WORKDIR VENV MAX_RESTARTS XLA_FLAGS LIBTPU_INIT_ARGS CHECKPOINT DATA_DIR OUTPUT NODES
  GPUS_PER_NODE PROCESSES_PER_NODE CPUS_PER_PROCESS PROJECT ZONE ACCELERATOR_TYPE RUNTIME_VERSION WORKER_SETUP
  DELETE_WHEN_DONE CLUSTER IMAGE)

say() { printf '%s: %s\n' "$program" "$*" >&2; }

# Ends with one sentence about what the user can mend.
die() {
  say "error: $*"
  exit 2
}

# Words as the shell reads them back.
quote() {
  local word line=''
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then line+=" $word"; else line+=" ${word@Q}"; fi
  done
  printf '%s' "${line# }"
}

# Runs a command, or only prints it.
run() {
  if [[ $dry_run ]]; then printf '%s\n' "$(quote "$@")"; else "$@"; fi
}

# begin TASKS "$@": reads the command line and the settings; relative paths start at the repository from here on.
begin() {
  local tasks=$1 word
  local usage="usage: launch/$program [--dry-run] SETTINGS [$tasks]"
  shift
  dry_run='' settings='' task=train
  for word; do
    case $word in
      -h | --help) printf '%s\n' "$usage" && exit 0 ;;
      --dry-run) dry_run=yes ;;
      -*) die "unknown option $word; $usage" ;;
      *) if [[ ! $settings ]]; then settings=$word; else task=$word; fi ;;
    esac
  done
  [[ $settings ]] || die "no settings file; $usage"
  [[ "|$tasks|" == *"|$task|"* ]] || die "unknown task $task; $usage"
  [[ -f $settings ]] || die "$settings: no such settings file; launch/settings.env.example is one to copy"
  settings=$(cd "$(dirname "$settings")" && pwd)/$(basename "$settings")
  cd "$repository"
  read_settings
}

# The file alone decides: what the environment holds under a setting's name does not count.
read_settings() {
  local name
  unset "${words[@]}" "${lists[@]}"
  # shellcheck source=/dev/null
  (source "$settings") >/dev/null || die "$settings: is not valid shell; see the line above"
  # shellcheck source=/dev/null
  source "$settings"
  while read -r name; do
    [[ " ${words[*]} ${lists[*]} " == *" $name "* ]] ||
      die "$settings: $name is not a setting; launch/settings.env.example explains them all"
  done < <(sed -nE 's/^[[:space:]]*([A-Z][A-Z0-9_]*)\+?=.*/\1/p' "$settings")
  for name in "${lists[@]}"; do
    case $(declare -p "$name" 2>/dev/null) in
      '') declare -ga "$name=()" ;;
      'declare -a'*) ;;
      *) die "$settings: $name must be a list in parentheses, such as $name=(--one --two='2 3')" ;;
    esac
  done
  for name in "${words[@]}"; do [[ ${!name+set} ]] || declare -g "$name="; done
  [[ $MAX_RESTARTS ]] || MAX_RESTARTS=10
  [[ $GPUS_PER_NODE ]] || GPUS_PER_NODE=0
  for name in NODES PROCESSES_PER_NODE; do [[ ${!name} ]] || declare -g "$name=1"; done
  for name in MAX_RESTARTS GPUS_PER_NODE; do number "$name" 0; done
  for name in NODES PROCESSES_PER_NODE; do number "$name" 1; done
}

# need SETTING WHAT: ends unless it is set.
need() { [[ ${!1} ]] || die "$settings: $1 is not set; set it to $2"; }

number() { [[ ${!1} =~ ^[0-9]+$ && ${!1} -ge $2 ]] || die "$settings: $1=${!1} must be a whole number, at least $2"; }

need_name() {
  need NAME "the run's name"
  # shellcheck disable=SC2153 # a setting
  [[ $NAME =~ ^[a-z][a-z0-9-]{0,38}[a-z0-9]$ ]] ||
    die "$settings: NAME=$NAME must be 2 to 40 lower-case letters, digits and dashes, and start with a letter"
}

# make_command PLATFORM PROGRAM [FLAG ...]: the words that start the task on one machine, in the array `command`.
make_command() {
  local platform=$1 flair_jax=$2
  shift 2
  recommend "$platform"
  command=(env "${recommended[@]}" "${ENVIRONMENT[@]}" "$flair_jax")
  if [[ $task == evaluate ]]; then
    need CHECKPOINT "a checkpoint's folder"
    need DATA_DIR "the folder that holds the retrieval sets"
    need OUTPUT "the JSON file to write"
    command+=(evaluate --checkpoint "$CHECKPOINT" --dataset all --data-dir "$DATA_DIR" --output "$OUTPUT"
      "${EVALUATE_OPTIONS[@]}")
  else
    need CONFIG "a configuration file, such as configs/cc3m_recap.py"
    need WORKDIR "the run's folder, in a bucket or where all machines share it"
    [[ $WORKDIR != s3://* ]] ||
      die "$settings: WORKDIR=$WORKDIR: checkpoints of a run are written to gs:// and to disks; mount the bucket instead"
    [[ -f ${CONFIG%%:*} ]] || die "$settings: CONFIG=$CONFIG: there is no such file in $repository"
    command+=(train "--config=$CONFIG" "--workdir=$WORKDIR" "${OVERRIDES[@]}" "--stopped-status=$stopped_status" "$@")
  fi
}

# Whether a path is in a bucket, such as gs://bucket/runs/cc3m.
in_bucket() { [[ $1 == gs://* ]]; }

# Machines elsewhere get this checkout alone, and a folder of their own would be lost with them.
need_shared_paths() {
  [[ $CONFIG != /* ]] || die "$settings: CONFIG=$CONFIG must be a path in the repository, whose files are copied"
  [[ -z $WORKDIR || $WORKDIR == /* ]] || in_bucket "$WORKDIR" ||
    die "$settings: WORKDIR=$WORKDIR must be in a bucket, such as gs://bucket/runs/cc3m, or a path that starts with / and is on a disk that all machines mount"
}

# The extras of the package that the settings' paths need, such as [gcs], or nothing.
extras() {
  local found=() text="$WORKDIR ${OVERRIDES[*]} ${EVALUATE_OPTIONS[*]} $CHECKPOINT $DATA_DIR $OUTPUT"
  if [[ $text == *gs://* ]]; then found+=(gcs); fi
  if [[ $text == *s3://* ]]; then found+=(s3); fi
  local IFS=,
  if ((${#found[@]})); then printf '[%s]' "${found[*]}"; fi
}

# Where each process's output is kept. A bucket takes no lines, so that of a run in one is kept here.
logs_of() {
  if in_bucket "$1"; then printf '%s/logs/%s' "$repository" "${1#*://}"; else printf '%s' "$1$2"; fi
}

accelerator() { if ((GPUS_PER_NODE)); then echo gpu; else echo cpu; fi; }

# The command of the virtual environment VENV, by default the repository's; of PATH if VENV is a dash.
installed() {
  local folder=${VENV:-.venv}
  if [[ $folder == - ]]; then
    printf flair-jax
  else
    [[ -x $folder/bin/flair-jax ]] || die "$settings: VENV=$folder holds no bin/flair-jax; install there, or set VENV"
    printf '%s' "$folder/bin/flair-jax"
  fi
}

# The code as a compressed tar on stdout: what git tracks, with changes that are not committed, and new files.
pack() {
  local file
  git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do if [[ -e $file ]]; then printf '%s\0' "$file"; fi; done |
    tar --create --gzip --null --files-from=-
}
