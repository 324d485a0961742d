#!/bin/sh
# Take out of an environment what no stage uses: slim.sh /opt/hand3d. Byte code stays: without it every job would compile
# its imports anew. The test that runs stages in the images is what says that nothing needed is gone.
set -eu
cd "$1"/lib/python3*/site-packages
rm -rf pip pip-*.dist-info ../../../bin/pip*
find . -type d -name tests -prune -exec rm -rf {} +  # not "test": dagster imports one
rm -rf torch/test
find . -type d -name include -prune -exec rm -rf {} +  # headers, for compiling against
find . -type f \( -name '*.a' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' \) -delete
# torch looks for one of its programs when it is imported
if [ -d torch/bin ]; then find torch/bin -type f ! -name torch_shm_manager -delete; fi
rm -rf ray/jars ray/rllib ray/dashboard/client
# LIBERO's robot is the Panda
if [ -d robosuite/models/assets/robots ]; then
    find robosuite/models/assets/robots -mindepth 1 -maxdepth 1 ! -name panda -exec rm -rf {} +
    rm -rf robosuite/models/assets/bullet_data robosuite/models/assets/demonstrations
fi
